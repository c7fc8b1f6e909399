// Works with a server as an agent in TypeScript does, and compares what comes back with what should.
// Usage: typescript_client.mjs URL 2026-07-28|2025-11-25. The server runs with --fixtures conformance.
// Exit status: 0 all is as it should be, 1 something is not; the message says what.
import assert from 'node:assert/strict';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const [url, era] = process.argv.slice(2);
const isModern = era === '2026-07-28';
const SOON = 10_000;

/** Waits for news, and fails in time if there is none. */
class News {
  heard = [];
  waiting = new Set();
  add(what) {
    this.heard.push(what);
    for (const look of this.waiting) look();
  }
  async of(what) {
    const isHeard = () => this.heard.includes(what);
    await new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`no news of ${what}; heard ${this.heard}`)), SOON);
      const look = () => {
        if (!isHeard()) return;
        clearTimeout(late);
        this.waiting.delete(look);
        resolve();
      };
      this.waiting.add(look);
      look();
    });
  }
}

async function connected() {
  const mode = isModern ? { pin: era } : 'legacy';
  const client = new Client(
    { name: 'typescript-client', version: '1.0.0' },
    { capabilities: { elicitation: {}, sampling: {} }, versionNegotiation: { mode } }
  );
  const news = new News();
  client.setNotificationHandler('notifications/resources/updated', ({ params }) => news.add(params.uri));
  client.setNotificationHandler('notifications/tools/list_changed', () => news.add('tools'));
  client.setRequestHandler('elicitation/create', async () => ({
    action: 'accept',
    content: { name: 'Ann', username: 'ann', email: 'ann@example.com', ok: true, color: 'blue' }
  }));
  client.setRequestHandler('sampling/createMessage', async () => ({
    role: 'assistant',
    model: 'none',
    content: { type: 'text', text: 'Paris' }
  }));
  await client.connect(new StreamableHTTPClientTransport(new URL(url)));
  return { client, news };
}

const text = result => result.content.find(({ type }) => type === 'text')?.text ?? '';

async function checkData(client) {
  const { tools } = await client.listTools();
  const names = tools.map(({ name }) => name);
  assert.deepEqual(names, [...names].sort(), 'tools are in order');
  const call = async (name, args) => (await client.callTool({ name, arguments: args })).structuredContent;
  const { session_id } = await call('create_session', { purpose: 'checks – ünïcödé' });
  for (const content of ['one', 'two']) await call('add_message', { session_id, content });
  const { messages } = await call('get_messages', { session_id });
  assert.deepEqual(messages.map(({ content }) => content), ['one', 'two']);
  const failed = await client.callTool({ name: 'get_session', arguments: { session_id: 'session_0000000000000000' } });
  assert.equal(failed.isError, true);
  assert.equal(failed.structuredContent.code, 'SESSION_NOT_FOUND');
}

async function checkResourcesAndPrompts(client) {
  const { resources } = await client.listResources();
  assert.ok(resources.some(({ uri }) => uri === 'test://static-text'));
  const { resourceTemplates } = await client.listResourceTemplates();
  assert.ok(resourceTemplates.some(({ uriTemplate }) => uriTemplate === 'test://template/{id}/data'));
  const { contents } = await client.readResource({ uri: 'test://template/7/data' });
  assert.equal(JSON.parse(contents[0].text).id, '7');
  await assert.rejects(client.readResource({ uri: 'test://no-such-resource' }));
  const { prompts } = await client.listPrompts();
  assert.ok(prompts.some(({ name }) => name === 'test_prompt_with_arguments'));
  const prompt = await client.getPrompt({ name: 'test_prompt_with_arguments', arguments: { arg1: 'a', arg2: 'b' } });
  assert.match(prompt.messages[0].content.text, /arg1='a', arg2='b'/);
  await assert.rejects(client.getPrompt({ name: 'test_prompt_with_arguments', arguments: { arg1: 'a' } }));
}

async function checkNews(client, news) {
  const uri = 'test://watched-resource';
  const subscription = isModern
    ? await client.listen({ toolsListChanged: true, resourceSubscriptions: [uri] })
    : await client.subscribeResource({ uri });
  // Whichever replica changes something, the client hears of it at the one where it listens.
  for (let round = 0; round < 4; round += 1) {
    news.heard = [];
    await client.callTool({ name: 'test_trigger_resource_change', arguments: {} });
    await news.of(uri);
    await client.callTool({ name: 'test_trigger_tool_change', arguments: {} });
    await news.of('tools');
  }
  if (isModern) await subscription.close();
  else await client.unsubscribeResource({ uri });
}

async function checkQuestions(client) {
  if (isModern) {
    const greeted = await client.callTool({ name: 'test_input_required_result_elicitation', arguments: {} });
    assert.equal(text(greeted), 'Hello, Ann!');
    // Each round may reach another replica, which has to open the state that the one before sealed.
    for (let round = 0; round < 4; round += 1) {
      const done = await client.callTool({ name: 'test_input_required_result_multi_round', arguments: {} });
      assert.equal(text(done), 'Multi-round flow complete');
    }
    return;
  }
  // The answer to each question may reach another replica than the one that asked.
  for (let round = 0; round < 4; round += 1) {
    const asked = await client.callTool({ name: 'test_elicitation', arguments: { message: 'Who are you?' } });
    assert.match(text(asked), /action=accept.*ann@example.com/);
    const sampled = await client.callTool({ name: 'test_sampling', arguments: { prompt: 'capital of France?' } });
    assert.equal(text(sampled), 'LLM response: Paris');
  }
}

const { client, news } = await connected();
try {
  await checkData(client);
  await checkResourcesAndPrompts(client);
  await checkNews(client, news);
  await checkQuestions(client);
} finally {
  await client.close();
}
console.log(`${era}: all is as it should be`);

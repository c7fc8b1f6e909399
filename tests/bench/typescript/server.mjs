// A server of the TypeScript SDK with one tool, without sessions and logs.
import { createServer } from 'node:http';

import { toNodeHandler } from '@modelcontextprotocol/node';
import { createMcpHandler, McpServer } from '@modelcontextprotocol/server';
import * as z from 'zod';

const [port, answers] = process.argv.slice(2);
const inputSchema = z.object({ text: z.string() });

function echoServer() {
    const server = new McpServer({ name: 'bench', version: '1.0.0' });
    server.registerTool('echo', { description: 'Returns the text.', inputSchema }, async ({ text }) => ({
        content: [{ type: 'text', text }]
    }));
    return server;
}

const handler = toNodeHandler(createMcpHandler(echoServer, { responseMode: answers }));
createServer(handler).listen(Number(port), '127.0.0.1');

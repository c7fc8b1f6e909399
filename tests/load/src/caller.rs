//! Makes calls: in which era, in which session, and whether the answer is right.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Uri};
use hyper::body::Bytes;
use serde_json::Value;

use crate::error::RunError;
use crate::mix::{Call, PREPARED_SESSIONS, PreparedCall, SharedContext};
use crate::outcome::{FailureKind, Refusal};
use crate::plan::{Era, Plan};
use crate::protocol::{Template, list_tools};
use crate::sessions::{Sessions, Ticket};
use crate::transport::{Exchange, Transport};

/// One request of the schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Counts up from 0. Decides the era of mixed runs.
    pub(crate) number: u64,
    /// Index of the call in the mix.
    pub(crate) call: usize,
    /// A random number that picks sessions and keys.
    pub(crate) choice: u64,
}

#[derive(Debug)]
struct PreparedTool {
    call: Call,
    /// Calls that are always the same are written once.
    fixed: Option<PreparedCall>,
    modern: Template,
    legacy: Template,
}

/// All that requests of a run share.
#[derive(Debug)]
pub(crate) struct Caller {
    transport: Transport,
    era: Era,
    tools: Vec<PreparedTool>,
    context: SharedContext,
    /// Present unless the era is modern.
    sessions: Option<Sessions>,
    next_id: AtomicU64,
}

impl Caller {
    /// Connects, opens the legacy sessions, checks that the server has the tools, and creates what calls refer to.
    pub(crate) async fn prepare(plan: &Plan, uri: Uri) -> Result<Self, RunError> {
        let transport = Transport::new(uri, plan.connections, plan.timeout);
        let next_id = AtomicU64::new(1);
        let sessions = if plan.era.has_sessions() {
            let opened = Sessions::open(&transport, plan.sessions, &next_id).await;
            Some(opened.map_err(|refusal| failed_to("initialize (legacy session)", &refusal))?)
        } else {
            None
        };
        let context = SharedContext::new(run_name());
        let tools = plan
            .mix
            .calls()
            .iter()
            .map(|(call, _)| PreparedTool::new(call, &context))
            .collect();
        let caller = Self {
            transport,
            era: plan.era,
            tools,
            context,
            sessions,
            next_id,
        };
        caller.check_tools().await?;
        if plan.mix.uses_shared_context() {
            caller.create_shared_context().await?;
        }
        Ok(caller)
    }

    /// Makes the call of an arrival and judges the answer.
    pub(crate) async fn call(&self, arrival: Arrival) -> Exchange {
        let tool = &self.tools[arrival.call];
        let drawn = || self.context.prepare(&tool.call, arrival.choice);
        let prepared = tool.fixed.clone().unwrap_or_else(drawn);
        self.make(tool, &prepared, arrival.number).await
    }

    /// How many sessions were opened and lost; `None` in the modern era.
    pub(crate) fn sessions(&self) -> Option<(u64, u64)> {
        self.sessions
            .as_ref()
            .map(|sessions| (sessions.opened(), sessions.lost()))
    }

    /// Ends the legacy sessions.
    pub(crate) async fn close(&self) {
        if let Some(sessions) = &self.sessions {
            sessions.close(&self.transport).await;
        }
    }

    async fn make(&self, tool: &PreparedTool, call: &PreparedCall, number: u64) -> Exchange {
        let id = self.new_id();
        let mut exchange = match self.session_for(number) {
            None => {
                let body = tool.modern.body(&call.arguments, id);
                self.transport.request(tool.modern.headers.clone(), body, id).await
            }
            Some(sessions) => {
                self.request_in_session(sessions, tool.legacy.body(&call.arguments, id), id)
                    .await
            }
        };
        if let Ok(answer) = &exchange.answer
            && let Err(refusal) = self.check_content(&tool.call, call, &answer.message)
        {
            exchange.answer = Err(refusal);
        }
        exchange
    }

    fn check_content(&self, call: &Call, prepared: &PreparedCall, message: &[u8]) -> Result<(), Refusal> {
        if let Some(expected) = &prepared.must_contain
            && !message
                .windows(expected.len())
                .any(|window| window == expected.as_bytes())
        {
            let sample = crate::outcome::sample(message);
            return Err(Refusal::failed(
                FailureKind::WrongAnswer,
                format!("no `{expected}` in {sample}"),
            ));
        }
        if *call == Call::CreateSession && !self.context.remember_session(message) {
            let sample = crate::outcome::sample(message);
            return Err(Refusal::failed(
                FailureKind::WrongAnswer,
                format!("no session_id in {sample}"),
            ));
        }
        Ok(())
    }

    /// The sessions, when request `number` is a legacy one.
    fn session_for(&self, number: u64) -> Option<&Sessions> {
        match self.era {
            Era::Modern => None,
            Era::Mixed if number.is_multiple_of(2) => None,
            Era::Legacy | Era::Mixed => self.sessions.as_ref(),
        }
    }

    /// Sends in the next session. If the server lost it: once more in a new one, as the protocol asks of clients.
    async fn request_in_session(&self, sessions: &Sessions, body: Bytes, id: u64) -> Exchange {
        let ticket = sessions.take_turn().await;
        let send = |ticket: &Ticket| {
            self.transport
                .request(HeaderMap::clone(&ticket.headers), body.clone(), id)
        };
        let first = send(&ticket).await;
        if !matches!(first.answer, Err(Refusal::SessionLost { .. })) {
            return first;
        }
        match sessions.replace(&ticket, &self.transport, &self.next_id).await {
            Ok(renewed) => send(&renewed).await,
            Err(refusal) => Exchange {
                status: first.status,
                finished: Instant::now(),
                answer: Err(refusal),
            },
        }
    }

    async fn check_tools(&self) -> Result<(), RunError> {
        let id = self.new_id();
        let (headers, body) = list_tools(self.era != Era::Legacy, id);
        let exchange = match (&self.era, &self.sessions) {
            (Era::Legacy, Some(sessions)) => self.request_in_session(sessions, body, id).await,
            _ => self.transport.request(headers, body, id).await,
        };
        let answer = exchange.answer.map_err(|refusal| failed_to("tools/list", &refusal))?;
        let answer: Value = serde_json::from_slice(&answer.message).unwrap_or_default();
        if answer.pointer("/result/nextCursor").is_some_and(Value::is_string) {
            // The list goes on; a missing tool will show as a failure of its calls.
            return Ok(());
        }
        let offered: Vec<&str> = answer
            .pointer("/result/tools")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|tool| tool.get("name")?.as_str())
            .collect();
        match self.tools.iter().find(|tool| !offered.contains(&tool.call.tool_name())) {
            Some(missing) => Err(RunError::NoSuchTool {
                tool: missing.call.tool_name().to_owned(),
                offered: offered.join(", "),
            }),
            None => Ok(()),
        }
    }

    async fn create_shared_context(&self) -> Result<(), RunError> {
        let create = PreparedTool::new(&Call::CreateSession, &self.context);
        for _ in 0..PREPARED_SESSIONS {
            self.prepare_with(&create, &self.context.prepare(&Call::CreateSession, 0))
                .await?;
        }
        let write = PreparedTool::new(&Call::SetMemory, &self.context);
        for call in self.context.first_writes() {
            self.prepare_with(&write, &call).await?;
        }
        Ok(())
    }

    async fn prepare_with(&self, tool: &PreparedTool, call: &PreparedCall) -> Result<(), RunError> {
        let answer = self.make(tool, call, 0).await.answer;
        answer
            .map(drop)
            .map_err(|refusal| failed_to(tool.call.tool_name(), &refusal))
    }

    fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

impl PreparedTool {
    fn new(call: &Call, context: &SharedContext) -> Self {
        let name = call.tool_name();
        Self {
            fixed: matches!(call, Call::Tool { .. }).then(|| context.prepare(call, 0)),
            modern: Template::modern_call(name),
            legacy: Template::legacy_call(name),
            call: call.clone(),
        }
    }
}

fn failed_to(step: &str, refusal: &Refusal) -> RunError {
    RunError::Prepare {
        step: step.to_owned(),
        why: refusal.message(),
    }
}

/// Different for every run, so that runs against the same database do not read one another's values.
fn run_name() -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}", since_epoch.as_nanos())
}

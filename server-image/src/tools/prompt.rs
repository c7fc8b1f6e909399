//! Prompts by name: messages that clients may begin a conversation with.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::future::BoxFuture;
use rmcp::ErrorData;
use rmcp::model::{GetPromptRequestParams, GetPromptResponse, GetPromptResult, Prompt};
use serde_json::Value;

use super::{CallContext, ToolError};

/// Arguments of a prompt: text by name, as clients send them.
pub type PromptArguments = HashMap<String, String>;

/// The messages of a prompt, or the error for the caller.
pub type PromptResult = Result<GetPromptResult, ToolError>;

type Answer = Result<GetPromptResponse, ErrorData>;
type Get = Box<dyn Fn(GetPromptRequestParams, CallContext) -> BoxFuture<'static, Answer> + Send + Sync>;

struct Registered {
    definition: Prompt,
    get: Get,
    /// Values that are offered while a client fills in an argument.
    suggestions: HashMap<&'static str, Vec<&'static str>>,
}

/// All prompts of a server by name.
#[derive(Default)]
pub struct PromptRegistry {
    prompts: BTreeMap<String, Registered>,
}

impl PromptRegistry {
    /// Adds a prompt. Arguments that `definition` requires are there when `get` runs.
    pub fn add<Running>(
        &mut self,
        definition: Prompt,
        get: impl Fn(PromptArguments, CallContext) -> Running + Send + Sync + 'static,
    ) where
        Running: Future<Output = PromptResult> + Send + 'static,
    {
        let get = Arc::new(get);
        self.add_whole(definition, move |request, context| {
            let get = Arc::clone(&get);
            async move {
                let arguments = texts(request)?;
                let prompt = get(arguments, context).await.map_err(ToolError::into_protocol)?;
                Ok(prompt.into())
            }
        });
    }

    /// Adds a prompt that sees the whole request and may ask for input before it answers.
    pub fn add_whole<Running>(
        &mut self,
        definition: Prompt,
        get: impl Fn(GetPromptRequestParams, CallContext) -> Running + Send + Sync + 'static,
    ) where
        Running: Future<Output = Answer> + Send + 'static,
    {
        let registered = Registered {
            get: Box::new(move |request, context| Box::pin(get(request, context))),
            suggestions: HashMap::new(),
            definition,
        };
        self.prompts.insert(registered.definition.name.clone(), registered);
    }

    /// Offers `values` while a client fills in an argument of a prompt that was added before.
    pub fn suggest(&mut self, prompt: &str, argument: &'static str, values: &[&'static str]) {
        if let Some(registered) = self.prompts.get_mut(prompt) {
            registered.suggestions.insert(argument, values.to_vec());
        }
    }

    /// Whether there are no prompts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.prompts.is_empty()
    }

    /// Definitions of all prompts, in the order of names.
    #[must_use]
    pub fn definitions(&self) -> Vec<Prompt> {
        self.prompts.values().map(|prompt| prompt.definition.clone()).collect()
    }

    /// Starts to make a prompt's messages.
    ///
    /// # Errors
    /// There is no such prompt, or an argument that it requires is missing.
    pub fn get(
        &self,
        request: GetPromptRequestParams,
        context: CallContext,
    ) -> Result<BoxFuture<'static, Answer>, ErrorData> {
        let prompt = self
            .prompts
            .get(&request.name)
            .ok_or_else(|| ErrorData::invalid_params(format!("unknown prompt: {}", request.name), None))?;
        let given = request.arguments.as_ref();
        let missing = prompt.definition.arguments.iter().flatten().find(|argument| {
            argument.required == Some(true) && given.is_none_or(|given| !given.contains_key(&argument.name))
        });
        if let Some(missing) = missing {
            let message = format!("prompt {} needs the argument {}", request.name, missing.name);
            return Err(ErrorData::invalid_params(message, None));
        }
        Ok((prompt.get)(request, context))
    }

    /// Values for an argument that begin with `beginning`; none for an argument without suggestions, `None` when
    /// there is no such prompt.
    #[must_use]
    pub fn complete(&self, prompt: &str, argument: &str, beginning: &str) -> Option<Vec<String>> {
        let values = self
            .prompts
            .get(prompt)?
            .suggestions
            .get(argument)
            .into_iter()
            .flatten();
        let fits = values.filter(|value| value.starts_with(beginning));
        Some(fits.map(|value| (*value).to_owned()).collect())
    }
}

/// The arguments of a request; the protocol allows text only.
fn texts(request: GetPromptRequestParams) -> Result<PromptArguments, ErrorData> {
    let arguments = request.arguments.unwrap_or_default().into_iter();
    let texts = arguments.map(|(name, value)| match value {
        Value::String(text) => Ok((name, text)),
        _ => Err(ErrorData::invalid_params(format!("argument {name} must be text"), None)),
    });
    texts.collect()
}

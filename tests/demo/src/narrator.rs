//! How the demo talks: steps with the time and the commands a user would run, and colours on a terminal.

use std::{
    env,
    io::{IsTerminal, stdout},
    time::Instant,
};

/// Tells what happens, step by step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Narrator {
    started: Instant,
    pub(crate) paint: Paint,
}

impl Narrator {
    /// The demo starts now.
    pub(crate) fn new() -> Self {
        // https://no-color.org
        let colours = stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            started: Instant::now(),
            paint: Paint { colours },
        }
    }

    /// Starts a step, with the commands that would do the same by hand.
    pub(crate) fn step(&self, what: &str, commands: &[&str]) {
        let seconds = self.started.elapsed().as_secs();
        println!(
            "\n{} {}",
            self.paint.dim(&format!("[{seconds:>3} s]")),
            self.paint.bold(what)
        );
        for command in commands {
            self.say(&self.paint.dim(&format!("$ {command}")));
        }
    }

    /// Says something within a step; each line of it is indented.
    #[expect(
        clippy::unused_self,
        reason = "what is told is told by the narrator, and a step needs it"
    )]
    pub(crate) fn say(&self, text: &str) {
        for line in text.lines() {
            println!("        {line}");
        }
    }
}

/// Colours by meaning, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    pub(crate) colours: bool,
}

impl Paint {
    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn warning(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

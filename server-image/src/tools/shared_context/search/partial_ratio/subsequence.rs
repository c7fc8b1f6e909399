//! Length of the longest common subsequence of a needle and a text that grows a character at a time, 64 positions of
//! the needle in one step: H. Hyyrö, "Bit-parallel LCS-length computation revisited", 2004.

/// Looked-up rows of a text, each with the bits of the needle's positions that have the text's character.
pub(super) trait Rows {
    /// One bit per position of the needle; it is 0 where the subsequence grew.
    type State;

    /// How many characters of text there are.
    fn len(&self) -> usize;

    /// The state for an empty text.
    fn fresh(&self) -> Self::State;

    /// Whether the needle has the character at `position`.
    fn matches(&self, position: usize) -> bool;

    /// Appends the character at `position` to the text; tells whether the subsequence grew by one.
    fn append(&self, state: &mut Self::State, position: usize) -> bool;

    /// As [`Self::append`], with the needle read backwards.
    fn append_mirrored(&self, state: &mut Self::State, position: usize) -> bool;
}

/// Rows of `W` words.
pub(super) struct Fixed<'a, const W: usize>(pub(super) &'a [[u64; W]]);

impl<const W: usize> Rows for Fixed<'_, W> {
    type State = [u64; W];

    fn len(&self) -> usize {
        self.0.len()
    }

    fn fresh(&self) -> Self::State {
        [u64::MAX; W]
    }

    fn matches(&self, position: usize) -> bool {
        self.0[position].iter().any(|word| *word != 0)
    }

    fn append(&self, state: &mut Self::State, position: usize) -> bool {
        step(state.iter_mut().zip(self.0[position]))
    }

    fn append_mirrored(&self, state: &mut Self::State, position: usize) -> bool {
        let mirrored = self.0[position].into_iter().rev().map(u64::reverse_bits);
        step(state.iter_mut().zip(mirrored))
    }
}

/// Rows of any number of words.
pub(super) struct Wide<'a> {
    pub(super) rows: &'a [u64],
    pub(super) words: usize,
}

impl Wide<'_> {
    fn row(&self, position: usize) -> &[u64] {
        &self.rows[position * self.words..][..self.words]
    }
}

impl Rows for Wide<'_> {
    type State = Vec<u64>;

    fn len(&self) -> usize {
        self.rows.len() / self.words
    }

    fn fresh(&self) -> Self::State {
        vec![u64::MAX; self.words]
    }

    fn matches(&self, position: usize) -> bool {
        self.row(position).iter().any(|word| *word != 0)
    }

    fn append(&self, state: &mut Self::State, position: usize) -> bool {
        step(state.iter_mut().zip(self.row(position).iter().copied()))
    }

    fn append_mirrored(&self, state: &mut Self::State, position: usize) -> bool {
        let mirrored = self.row(position).iter().rev().copied().map(u64::reverse_bits);
        step(state.iter_mut().zip(mirrored))
    }
}

/// Bits beyond the needle's length never match, stay 1, and hand a carry on: so the carry out of the last word tells
/// whether the subsequence grew.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "the innermost loop of the search, instantiated per number of words"
)]
fn step<'a>(words: impl Iterator<Item = (&'a mut u64, u64)>) -> bool {
    let mut carry = false;
    for (state, matches) in words {
        let used = *state & matches;
        let (sum, next) = state.carrying_add(used, carry);
        *state = sum | (*state - used);
        carry = next;
    }
    carry
}

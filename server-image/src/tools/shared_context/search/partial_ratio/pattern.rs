//! Where each character occurs in a needle: one row of bits per character, bit `i` for position `i`.

/// Characters whose rows are found through one page; a page is what differs in the last byte of the code point.
const PAGE: usize = 256;
/// Pages that cover every code point.
const PAGES: usize = 0x11_0000 / PAGE;

/// The rows of a needle. Page 0 and row 0 stand for what the needle does not have, so that a look-up has no branches.
#[derive(Debug)]
pub(super) struct Pattern {
    length: usize,
    words: usize,
    page_of: Vec<usize>,
    pages: Vec<[u32; PAGE]>,
    rows: Vec<u64>,
}

impl Pattern {
    /// The pattern of an empty needle.
    pub(super) fn empty() -> Self {
        Self {
            length: 0,
            words: 1,
            page_of: vec![0; PAGES],
            pages: vec![[0; PAGE]],
            rows: vec![0],
        }
    }

    /// Makes this the pattern of `needle`, which has `length` characters; memory is used again.
    pub(super) fn set(&mut self, needle: &str, length: usize) {
        if self.pages.len() > 1 {
            self.page_of.fill(0);
        }
        self.pages.truncate(1);
        self.length = length;
        self.words = words(length);
        self.rows.clear();
        self.rows.resize(self.words, 0);
        for (position, character) in needle.chars().enumerate() {
            let row = self.row_to_fill(character);
            self.rows[row * self.words + position / 64] |= 1 << (position % 64);
        }
    }

    fn row_to_fill(&mut self, character: char) -> usize {
        let (page, place) = split(character);
        if self.page_of[page] == 0 {
            self.page_of[page] = self.pages.len();
            self.pages.push([0; PAGE]);
        }
        let row = &mut self.pages[self.page_of[page]][place];
        if *row == 0 {
            // A needle has fewer different characters than there are code points, which fit.
            *row = u32::try_from(self.rows.len() / self.words).unwrap_or(0);
            self.rows.resize(self.rows.len() + self.words, 0);
        }
        *row as usize
    }

    /// Characters of the needle.
    pub(super) const fn length(&self) -> usize {
        self.length
    }

    /// Words of a row: as many as the needle's length needs, rounded up to a number that has code of its own.
    pub(super) const fn words(&self) -> usize {
        self.words
    }

    /// Appends the rows of up to `count` characters of `text` to `rows`.
    pub(super) fn look_up(&self, text: &mut Characters<'_>, count: usize, rows: &mut Vec<u64>) {
        match text {
            Characters::Ascii(bytes) => {
                let (now, later) = bytes.split_at(count.min(bytes.len()));
                let page = &self.pages[self.page_of[0]];
                self.append(now.iter().map(|byte| page[usize::from(*byte)]), rows);
                *bytes = later;
            }
            Characters::Any(characters) => {
                let found = characters.by_ref().take(count).map(|character| {
                    let (page, place) = split(character);
                    self.pages[self.page_of[page]][place]
                });
                self.append(found, rows);
            }
        }
    }

    fn append(&self, found: impl Iterator<Item = u32>, rows: &mut Vec<u64>) {
        if self.words == 1 {
            rows.extend(found.map(|row| self.rows[row as usize]));
        } else {
            for row in found {
                let start = row as usize * self.words;
                rows.extend_from_slice(&self.rows[start..start + self.words]);
            }
        }
    }
}

/// Rest of a text, read from its start.
pub(super) enum Characters<'a> {
    /// Of a text whose characters are bytes.
    Ascii(&'a [u8]),
    /// Of any other text.
    Any(std::str::Chars<'a>),
}

impl<'a> Characters<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        if text.is_ascii() {
            Self::Ascii(text.as_bytes())
        } else {
            Self::Any(text.chars())
        }
    }
}

const fn split(character: char) -> (usize, usize) {
    let code = character as usize;
    (code / PAGE, code % PAGE)
}

fn words(length: usize) -> usize {
    match length.div_ceil(64) {
        0 | 1 => 1,
        few @ 2..=8 => few.next_power_of_two(),
        many => many,
    }
}

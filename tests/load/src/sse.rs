//! Server-sent events, as far as MCP answers use them: the data of each event.
//! Follows the event stream parsing of the WHATWG HTML standard, section 9.2.6.

/// Cuts a byte stream into the data of its events, however the bytes are split on the way.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    unread: Vec<u8>,
    /// Where the search for the next line end goes on; what is before it in `unread` holds none.
    searched: usize,
    data: Vec<u8>,
    has_data: bool,
}

impl SseParser {
    /// Takes in bytes and returns the data of the events they complete. Events without data are left out.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.unread.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(line) = self.take_line() {
            if line.is_empty() {
                events.extend(self.end_event());
            } else {
                self.read_field(&line);
            }
        }
        events
    }

    /// How many bytes are held back because their line or event is not complete.
    pub(crate) fn held(&self) -> usize {
        self.unread.len() + self.data.len()
    }

    /// A line ends with LF, CR LF or CR. A CR that ends the bytes read so far may be half of a CR LF: it waits.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        let found = self.unread[self.searched..]
            .iter()
            .position(|byte| matches!(byte, b'\n' | b'\r'));
        let Some(end) = found.map(|offset| self.searched + offset) else {
            self.searched = self.unread.len();
            return None;
        };
        let length_of_end = match (self.unread[end], self.unread.get(end + 1)) {
            (b'\r', None) => {
                self.searched = end;
                return None;
            }
            (b'\r', Some(b'\n')) => 2,
            _ => 1,
        };
        let rest = self.unread.split_off(end + length_of_end);
        let mut line = std::mem::replace(&mut self.unread, rest);
        line.truncate(end);
        self.searched = 0;
        Some(line)
    }

    fn read_field(&mut self, line: &[u8]) {
        let Some(value) = line.strip_prefix(b"data") else {
            return;
        };
        let value = match value.split_first() {
            None => value,
            Some((b':', value)) => value.strip_prefix(b" ").unwrap_or(value),
            Some(_) => return,
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
    }

    fn end_event(&mut self) -> Option<Vec<u8>> {
        self.has_data = false;
        let data = std::mem::take(&mut self.data);
        (!data.is_empty()).then_some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": keep-alive\n\nid: 1\nretry: 3000\ndata:\n\nevent: message\r\ndata: {\"a\":1}\r\n\r\n\
                          data: two\rdata:lines\r\rdatabase: no field of ours\ndata: last\n\n";

    #[test]
    fn events_come_out_whole_wherever_the_bytes_are_cut() {
        let expected: Vec<Vec<u8>> = vec![b"{\"a\":1}".to_vec(), b"two\nlines".to_vec(), b"last".to_vec()];
        for cut in 0..=STREAM.len() {
            let (first, second) = STREAM.as_bytes().split_at(cut);
            let mut parser = SseParser::default();
            let mut events = parser.push(first);
            events.extend(parser.push(second));
            assert_eq!(events, expected, "cut at byte {cut}");
        }
        let mut parser = SseParser::default();
        let one_by_one: Vec<Vec<u8>> = STREAM.bytes().flat_map(|byte| parser.push(&[byte])).collect();
        assert_eq!(one_by_one, expected);
        assert_eq!(parser.held(), 0);
    }

    #[test]
    fn an_event_without_its_end_is_held_back() {
        let mut parser = SseParser::default();
        assert!(parser.push(b"data: half").is_empty());
        assert!(parser.push(b"\n").is_empty());
        assert_eq!(parser.push(b"\n"), [b"half".to_vec()]);
    }
}

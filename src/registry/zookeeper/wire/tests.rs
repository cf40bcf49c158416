use super::*;

/// Answers as a server writes them.
#[derive(Default)]
struct Answer(Body);

impl Answer {
    fn stat(mut self, stat: Stat) -> Self {
        for long in [stat.czxid, 7, 8, 9] {
            self.0.long(long);
        }
        for int in [stat.version, stat.cversion, 0] {
            self.0.int(int);
        }
        self.0.long(stat.owner);
        self.0.int(3);
        self.0.int(0);
        self.0.long(stat.pzxid);
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.bytes(bytes);
        self
    }

    fn int(mut self, int: i32) -> Self {
        self.0.int(int);
        self
    }

    fn header(mut self, operation: i32, done: bool) -> Self {
        self.0.header(operation, done);
        self
    }

    fn reader(&self) -> Reader<'_> {
        Reader::new(&self.0.0)
    }
}

const STAT: Stat = Stat {
    czxid: 1 << 33,
    pzxid: (1 << 33) + 4,
    version: 2,
    cversion: 5,
    owner: -3,
};

#[test]
fn a_request_is_its_length_its_number_its_operation_and_its_fields() {
    let mut out = vec![9];
    Body::children("/a", true).frame(5, &mut out);
    let expected = b"\x09\0\0\0\x0f\0\0\0\x05\0\0\0\x0c\0\0\0\x02/a\x01";
    assert_eq!(out, expected);
    let mut out = Vec::new();
    Body::connect(4_000, -1, &[7; 16]).first_frame(&mut out);
    assert_eq!(out.len(), 4 + 45);
    assert_eq!(out[..4], 45_i32.to_be_bytes());
}

#[test]
fn answers_are_read() {
    let list = Answer::default()
        .int(2)
        .bytes(b"a")
        .bytes(b"\xff")
        .stat(STAT);
    let (names, stat) = list.reader().children().unwrap();
    assert_eq!((names, stat), (vec![&b"a"[..], b"\xff"], STAT));
    let data = Answer::default().bytes(b"x").stat(STAT);
    assert_eq!(data.reader().data().unwrap(), (&b"x"[..], STAT));
    // Data that were never set.
    let none = Answer::default().int(-1).stat(STAT);
    assert_eq!(none.reader().data().unwrap().0, b"");
}

#[test]
fn the_error_of_a_transaction_is_that_of_the_operation_that_failed() {
    let done = Answer::default()
        .header(op::DELETE, false)
        .header(op::CREATE, false)
        .bytes(b"/a")
        .header(-1, true);
    assert_eq!(done.reader().transaction(), Ok(Ok(())));
    for codes in [[-103, -2], [0, -110]] {
        let mut failed = Answer::default();
        for code in codes {
            failed = failed.header(op::ERROR, false).int(code);
        }
        let expected = codes.into_iter().find(|code| *code < -100).map(Code);
        let failed = failed.header(-1, true).reader().transaction();
        assert_eq!(failed, Ok(Err(expected.unwrap())));
    }
    let other = Answer::default().header(99, false);
    other.reader().transaction().unwrap_err();
}

#[test]
fn whatever_is_cut_off_or_announced_too_long_is_an_error() {
    let list = Answer::default().int(2).bytes(b"a").bytes(b"b").stat(STAT);
    let bytes = &list.0.0;
    for end in 0..bytes.len() {
        Reader::new(&bytes[..end]).children().unwrap_err();
    }
    let data = Answer::default().bytes(b"record").stat(STAT);
    for end in 0..data.0.0.len() {
        Reader::new(&data.0.0[..end]).data().unwrap_err();
    }
    for count in [i32::MAX, 100_001] {
        let answer = Answer::default().int(count);
        let error = answer.reader().children();
        assert!(
            error.unwrap_err().to_string().contains("at most"),
            "{count}"
        );
    }
    // Negative lengths are none.
    assert!(
        Answer::default()
            .int(-5)
            .stat(STAT)
            .reader()
            .children()
            .is_ok()
    );
    let event = Answer::default().int(1).int(3).bytes(b"\xff");
    event.reader().event().unwrap_err();
}

//! Promise: a text from outside is read without what editors add, and no longer than it may be.

use distillery_core::text::{counted, escaped, nearest, of_serde, quoted, shortened, unknown, without_mark};

#[test]
fn one_byte_order_mark_at_the_start_is_skipped() {
    for (text, rest) in
        [("\u{feff}{}", "{}"), ("{}", "{}"), ("\u{feff}\u{feff}", "\u{feff}"), ("", ""), ("\u{feff}", "")]
    {
        assert_eq!(without_mark(text.as_bytes()), rest.as_bytes());
    }
    assert_eq!(without_mark(b"\xef\xbb"), b"\xef\xbb");
}

#[test]
fn a_long_text_is_cut_between_characters_and_says_what_is_missing() {
    assert_eq!(shortened("short", 5), "short");
    for longest in 50..60 {
        let text = "é".repeat(1000);
        let cut = shortened(&text, longest);
        let (kept, rest) = cut.split_once('…').unwrap();
        assert_eq!(rest, format!(" ({} more bytes)", 2000 - kept.len()));
        assert!(text.starts_with(kept) && cut.len() <= longest && cut.len() > longest - 25, "{cut}");
        assert_eq!(shortened(&cut, longest), cut, "it is cut once");
    }
}

#[test]
fn the_name_that_was_probably_meant_is_near_for_its_length() {
    for (wanted, near) in [
        ("Digits", Some("digits")),
        ("cifar-100", Some("cifar100")),
        ("cifar_1000", Some("cifar100")),
        ("tne", Some("ten")),
        ("two", None),
        ("x", None),
        ("", None),
        ("fashion", None),
    ] {
        assert_eq!(nearest(wanted, ["ten", "digits", "cifar100", "a"]), near, "{wanted}");
    }
    assert_eq!(nearest("ten", []), None);
}

#[test]
fn a_number_comes_with_the_form_of_its_noun() {
    let classes = |count: u32| counted(count, "class", "classes");
    assert_eq!([0, 1, 2].map(classes), ["0 classes", "1 class", "2 classes"]);
}

#[test]
fn an_unknown_name_is_answered_in_one_way_whoever_finds_it() {
    let known = ["queued", "running"];
    let near = "unknown status \"runing\" (did you mean running?); known: queued, running";
    assert_eq!(unknown("status", "runing", &known), near);
    for (message, said) in [
        ("unknown variant `runing`, expected `queued` or `running`", near.to_owned()),
        ("status: unknown variant `runing`, expected `queued` or `running`", format!("status: {near}")),
        ("unknown variant `a`, expected one of `b1`, `c1`, `d1`", "unknown status \"a\"; known: b1, c1, d1".to_owned()),
        ("unknown variant `a`, expected `b1`", "unknown status \"a\"; known: b1".to_owned()),
        ("expected a whole number", "expected a whole number".to_owned()),
        ("unknown variant `", "unknown variant `".to_owned()),
    ] {
        assert_eq!(of_serde(message, "status"), said, "{message}");
    }
}

#[test]
fn a_quoted_text_is_what_people_read_and_hides_nothing() {
    // An accent that stands by itself in the file belongs to the letter before it.
    for text in ["A\u{308}pfel", "Äpfel", "猫", "हिन्दी", "it's", "😀", ""] {
        assert_eq!(quoted(text), format!("\"{text}\""));
    }
    for (text, shown) in [
        ("a\"b\\c", r#""a\"b\\c""#),
        ("a\nb\tc\0", r#""a\nb\tc\0""#),
        ("\u{1b}[31m", r#""\u{1b}[31m""#),
        ("a\u{202e}b\u{200b}", r#""a\u{202e}b\u{200b}""#),
    ] {
        assert_eq!(quoted(text), shown);
    }
    assert_eq!(escaped("it's \"A\u{308}\"\n"), "it's \"A\u{308}\"\\n");
}

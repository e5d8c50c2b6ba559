//! Rust as tokens, and the length of its functions.

/// An identifier, a keyword or a single other character of code, and its line.
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// The tokens of code without its comments and literals.
pub fn tokens(code: &str) -> Vec<Token> {
    let characters: Vec<char> = code.chars().collect();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < characters.len() {
        let rest = &characters[at..];
        let word = rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
        let text: String = rest[..word.max(1)].iter().collect();
        let skipped = match (text.as_str(), &rest[word..]) {
            ("r" | "br" | "cr", after) => raw_string(after).map_or(0, |length| word + length),
            _ if word > 0 => 0,
            _ => comment_or_literal(rest),
        };
        let length = skipped.max(text.chars().count());
        if skipped == 0 && !text.trim().is_empty() {
            tokens.push(Token { text, line });
        }
        line += rest[..length].iter().filter(|c| **c == '\n').count();
        at += length;
    }
    tokens
}

/// The length of the comment or literal that code begins with; 0 if it begins with something else.
fn comment_or_literal(code: &[char]) -> usize {
    let until = |from: usize, end: &str| {
        let end: Vec<char> = end.chars().collect();
        let found = code.get(from..).and_then(|rest| rest.windows(end.len()).position(|window| window == end));
        found.map_or(code.len(), |place| from + place + end.len())
    };
    match code {
        ['/', '/', ..] => until(0, "\n") - 1,
        ['/', '*', ..] => until(2, "*/"),
        ['\'', '\\', _, ..] => until(3, "'"),
        ['\'', _, '\'', ..] => 3,
        ['"', ..] => {
            let mut at = 1;
            while at < code.len() && code[at] != '"' {
                at += if code[at] == '\\' { 2 } else { 1 };
            }
            code.len().min(at + 1)
        }
        _ => 0,
    }
}

/// The length of the raw string that code begins with after its `r`.
fn raw_string(code: &[char]) -> Option<usize> {
    let hashes = code.iter().take_while(|c| **c == '#').count();
    let content = code.get(hashes..)?.strip_prefix(&['"'])?;
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let length = content.windows(end.len()).position(|window| window == end)?;
    Some(hashes + 1 + length + end.len())
}

/// The name of each function with a body, and its number of lines from `fn` to the closing brace.
pub fn functions(code: &str) -> Vec<(String, usize)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        let [keyword, name] = pair else { continue };
        // The type of a function has no name.
        if keyword.text != "fn" || !name.text.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            continue;
        }
        let (mut brackets, mut braces) = (0_i32, 0_i32);
        for token in &tokens[at + 2..] {
            match token.text.as_str() {
                "(" | "[" => brackets += 1,
                ")" | "]" => brackets -= 1,
                "{" => braces += 1,
                "}" => braces -= 1,
                ";" if brackets == 0 && braces == 0 => break,
                _ => continue,
            }
            if token.text == "}" && braces == 0 {
                found.push((name.text.clone(), token.line - keyword.line + 1));
                break;
            }
        }
    }
    found
}

#[test]
fn a_function_is_measured_past_braces_in_strings_characters_and_comments() {
    let code = r##"
fn one(limit: [u8; 2], run: fn(u8) -> u8) -> char {
    // } not the end
    let text = "} \" }";
    let raw = r#"} " }"#;
    /* } */
    if limit.len() > text.len() { '}' } else { '\'' }
}
trait Shape {
    fn area<'a>(&'a self) -> u8;
    async fn two(&self) { }
}
"##;
    assert_eq!(functions(code), [("one".to_owned(), 7), ("two".to_owned(), 1)]);
}

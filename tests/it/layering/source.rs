//! Just enough of Rust's grammar to find the paths in a source file.

/// The tokens of a source file that can matter: identifiers, `::` and single punctuation marks.
/// Comments, strings, characters and lifetimes are gone.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        match c {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            '"' => i = end_of_quoted(&chars, i, '"'),
            // A lifetime is a quote and a word without a quote behind it.
            '\'' if at(i + 1) != '\\' && at(i + 2) != '\'' => {
                i += 1;
                while word(at(i)) {
                    i += 1;
                }
            }
            '\'' => i = end_of_quoted(&chars, i, '\''),
            ':' if at(i + 1) == ':' => {
                tokens.push("::".to_owned());
                i += 2;
            }
            c if word(c) => {
                let start = i;
                while word(at(i)) {
                    i += 1;
                }
                let found: String = chars[start..i].iter().collect();
                match end_of_raw(&chars, i, &found) {
                    Some(end) => i = end,
                    None => tokens.push(found),
                }
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(c.to_string());
                }
                i += 1;
            }
        }
    }
    tokens
}

/// Behind a quoted text that begins at `start`.
fn end_of_quoted(chars: &[char], start: usize, quote: char) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// Behind a raw string, when `prefix` (`r`, `br`, `cr`) and what stands at `start` begin one.
fn end_of_raw(chars: &[char], start: usize, prefix: &str) -> Option<usize> {
    let hashes = chars[start..].iter().take_while(|c| **c == '#').count();
    if !matches!(prefix, "r" | "br" | "cr") || chars.get(start + hashes) != Some(&'"') {
        return None;
    }
    let mut i = start + hashes + 1;
    while i < chars.len() {
        let behind = &chars[i + 1..];
        if chars[i] == '"' && behind.iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some(i + 1 + hashes);
        }
        i += 1;
    }
    Some(i)
}

/// The module that a file below `src` is; the crate's root is the empty path.
pub(super) fn module_of(file: &str) -> Vec<String> {
    let file = file.trim_end_matches(".rs");
    let file = file.strip_suffix("/mod").unwrap_or(file);
    match file {
        "lib" | "main" => Vec::new(),
        file => file.split('/').map(str::to_owned).collect(),
    }
}

/// Every path of two or more parts, groups spread out, those into the crate as `crate::…` from its
/// root: `crate`, `super`, `self` and the crate's own name are resolved.
pub(super) fn paths(tokens: &[String], module: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    // Modules that are written in the file itself, with the depth of braces at which each began.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    let mut i = 0;
    while i < tokens.len() {
        match tokens[i].as_str() {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.retain(|(_, began)| *began < depth);
            }
            "mod" if tokens.get(i + 2).is_some_and(|token| token == "{") => {
                inline.push((tokens[i + 1].clone(), depth));
                depth += 1;
                i += 3;
                continue;
            }
            "use" => {
                // Also a name alone is a path here.
                let here = place(module, &inline);
                i = tree(tokens, i + 1, &[], &here, &mut found);
                continue;
            }
            token if is_name(token) && tokens.get(i + 1).is_some_and(|next| next == "::") => {
                let here = place(module, &inline);
                i = tree(tokens, i, &[], &here, &mut found);
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

fn place(module: &[String], inline: &[(String, usize)]) -> Vec<String> {
    module.iter().cloned().chain(inline.iter().map(|(name, _)| name.clone())).collect()
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads a path, or a group of them, from `at` on; returns where it ends.
fn tree(
    tokens: &[String],
    mut at: usize,
    prefix: &[String],
    here: &[String],
    found: &mut Vec<String>,
) -> usize {
    let mut path = prefix.to_vec();
    let token = |at: usize| tokens.get(at).map_or("", String::as_str);
    if token(at) == "::" {
        at += 1;
    }
    loop {
        match token(at) {
            "{" => {
                at += 1;
                while !matches!(token(at), "}" | "") {
                    at = tree(tokens, at, &path, here, found);
                    if token(at) == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "*" => {
                path.push("*".to_owned());
                at += 1;
                break;
            }
            name if is_name(name) => {
                path.push(name.to_owned());
                at += 1;
            }
            // Generic arguments, or something that is no path: read on from here.
            _ => break,
        }
        if token(at) != "::" {
            break;
        }
        at += 1;
    }
    if token(at) == "as" {
        at += 2;
    }
    if !path.is_empty() {
        found.push(resolve(&path, here));
    }
    // Never stand still.
    if at < tokens.len() && path == prefix { at + 1 } else { at }
}

fn resolve(path: &[String], here: &[String]) -> String {
    let mut base: Option<Vec<String>> = None;
    let mut rest = path;
    while let Some((first, behind)) = rest.split_first() {
        base = match (first.as_str(), base) {
            ("crate", None) => Some(Vec::new()),
            // Only the binary, which is no module of the library, names it from outside.
            ("bottle", None) if here.is_empty() => Some(Vec::new()),
            ("self", None) => Some(here.to_vec()),
            ("self", Some(base)) => Some(base),
            ("super", base) => {
                let mut base = base.unwrap_or_else(|| here.to_vec());
                base.pop();
                Some(base)
            }
            (_, base) => {
                let Some(base) = base else { return path.join("::") };
                let full: Vec<&str> = base.iter().chain(rest).map(String::as_str).collect();
                return format!("crate::{}", full.join("::"));
            }
        };
        rest = behind;
    }
    match base {
        Some(base) if !base.is_empty() => format!("crate::{}", base.join("::")),
        Some(_) => "crate::self".to_owned(),
        None => String::new(),
    }
}

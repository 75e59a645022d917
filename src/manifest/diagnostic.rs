//! A finding as a person reads it: where it is, the line, a caret, and what to do.
//!
//! Drawn by hand rather than by a library: one line and one caret is all that there ever is, and it
//! has to keep to the width of the terminal.

use std::collections::BTreeMap;
use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use super::source::printable;
use crate::model::{Diagnostic, Severity};

/// How findings are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Drawing {
    /// Columns to keep to.
    pub width: usize,
    /// With ANSI colours; everything can be read without.
    pub colour: bool,
}

impl Default for Drawing {
    fn default() -> Self {
        Self { width: 80, colour: false }
    }
}

/// Draws one finding, with a line feed at its end.
#[must_use]
pub fn render(found: &Diagnostic, drawing: Drawing) -> String {
    draw(found, None, drawing)
}

fn draw(found: &Diagnostic, note: Option<&str>, drawing: Drawing) -> String {
    let paint = Paint { colour: drawing.colour };
    let (word, colour) = match found.severity {
        Severity::Error => ("error", AnsiColor::Red),
        Severity::Warning => ("warning", AnsiColor::Yellow),
    };
    let strong = Style::new().bold().fg_color(Some(colour.into()));
    let frame = Style::new().fg_color(Some(AnsiColor::Blue.into()));
    let mut out = String::new();
    let indent = word.len() + 2;
    let message = wrap(&printable(&found.message), drawing.width.saturating_sub(indent), indent);
    let head = Style::new().bold();
    line(
        &mut out,
        &format!("{} {}", paint.with(strong, &format!("{word}:")), paint.with(head, &message)),
    );

    let number = if found.line == 0 { String::new() } else { found.line.to_string() };
    let gutter = number.len().max(1);
    let blank = " ".repeat(gutter);
    let place = match found.line {
        0 => printable(&found.file),
        _ => format!("{}:{}:{}", printable(&found.file), found.line, found.column),
    };
    line(&mut out, &format!("{blank} {} {place}", paint.with(frame, "┌─")));

    // Gutter, blank, bar, blank.
    let room = drawing.width.saturating_sub(gutter + 3).max(20);
    if let Some(source) = found.source_line.as_deref().filter(|_| found.line > 0) {
        let view = View::new(source, found.column.saturating_sub(1), found.width, room);
        let bar = paint.with(frame, "│");
        let text = format!("{} {bar} {}", paint.with(frame, &number), view.text);
        line(&mut out, text.trim_end());
        let carets = paint.with(strong, &"^".repeat(view.carets));
        let lead = " ".repeat(view.before);
        match found.label.as_deref().map(printable) {
            None => line(&mut out, &format!("{blank} {bar} {lead}{carets}")),
            Some(label) if view.before + view.carets + 1 + cells(&label) <= room => {
                let label = paint.with(strong, &label);
                line(&mut out, &format!("{blank} {bar} {lead}{carets} {label}"));
            }
            Some(label) => {
                line(&mut out, &format!("{blank} {bar} {lead}{carets}"));
                for part in wrap(&label, room, 0).lines() {
                    line(&mut out, &format!("{blank} {bar} {}", paint.with(strong, part)));
                }
            }
        }
    } else if let Some(label) = &found.label {
        line(&mut out, &format!("{blank} = {}", wrap(&printable(label), room, gutter + 3)));
    }
    for words in found.hint.as_deref().into_iter().chain(note) {
        line(&mut out, &format!("{blank} = {}", wrap(&printable(words), room, gutter + 3)));
    }
    out
}

/// How many of those that a finding holds are named.
const NAMED: usize = 3;

/// Draws findings one after the other, with an empty line between them. What is wrong with many files for
/// one cause is drawn once, where the cause is, with who is held by it.
#[must_use]
pub fn render_all(found: &[Diagnostic], drawing: Drawing) -> String {
    let mut held: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in found.iter().filter(|one| is_told_by_its_cause(one, found)) {
        held.entry(one.cause.as_deref().unwrap_or_default()).or_default().push(&one.file);
    }
    let mut drawn = Vec::new();
    for one in found.iter().filter(|one| !is_told_by_its_cause(one, found)) {
        let cause = one.severity == Severity::Error;
        let note =
            cause.then(|| held.remove(one.file.as_str())).flatten().map(|files| holds(&files));
        drawn.push(draw(one, note.as_deref(), drawing));
    }
    drawn.join("\n")
}

/// Whether this finding only repeats that another one, in the file that it names, holds its sandbox.
#[must_use]
pub fn is_told_by_its_cause(one: &Diagnostic, all: &[Diagnostic]) -> bool {
    let causes = |file: &str| {
        all.iter().any(|other| other.file == file && other.severity == Severity::Error)
    };
    one.cause.as_deref().is_some_and(causes)
}

fn holds(files: &[&str]) -> String {
    let name = |file: &&str| {
        let base = file.rsplit('/').next().unwrap_or(file);
        base.strip_suffix(".md").unwrap_or(base).to_owned()
    };
    let shown = if files.len() <= NAMED + 1 { files.len() } else { NAMED };
    let names: Vec<String> = files[..shown].iter().map(name).collect();
    match (files.len() - shown, names.split_last()) {
        (0, Some((last, []))) => format!("holds {last}"),
        (0, Some((last, first))) => format!("holds {} and {last}", first.join(", ")),
        (more, _) => format!("holds {} and {more} more", names.join(", ")),
    }
}

struct Paint {
    colour: bool,
}

impl Paint {
    fn with(&self, style: Style, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

/// The part of a source line that fits, and where the caret stands in it.
struct View {
    text: String,
    before: usize,
    carets: usize,
}

impl View {
    fn new(source: &str, column: usize, width: usize, room: usize) -> Self {
        let shown: Vec<char> = source.chars().collect();
        let column = column.min(shown.len());
        let end = (column + width).min(shown.len()).max(column);
        let all: usize = shown.iter().map(|c| cell(*c)).sum();
        let (mut from, mut cut_left) = (0, false);
        if all > room {
            // The caret's start is kept in sight, with a third of the room before it.
            let before = |from: usize| shown[from..column].iter().map(|c| cell(*c)).sum::<usize>();
            while before(from) > room / 3 {
                from += 1;
                cut_left = true;
            }
        }
        let mut text = String::new();
        let mut used = usize::from(cut_left);
        if cut_left {
            text.push('…');
        }
        let (mut before, mut carets) = (used, 0);
        for (index, c) in shown.iter().enumerate().skip(from) {
            let wide = cell(*c);
            let last = index + 1 == shown.len();
            if used + wide + usize::from(!last) > room {
                text.push('…');
                break;
            }
            if *c == '\t' {
                text.push_str("    ");
            } else {
                text.push(*c);
            }
            used += wide;
            if index < column {
                before += wide;
            } else if index < end {
                carets += wide;
            }
        }
        Self { text, before, carets: carets.max(1) }
    }
}

/// How many columns a character takes on a terminal.
fn cell(c: char) -> usize {
    match c {
        '\t' => 4,
        '\u{300}'..='\u{36f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

fn cells(text: &str) -> usize {
    text.chars().map(cell).sum()
}

/// Breaks text between words; the lines after the first are indented.
fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let wide = cells(word);
        if used > 0 && used + 1 + wide > width {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            used = 0;
        } else if !out.is_empty() {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += wide;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once_with_all_that_it_holds() {
        let cause = Diagnostic {
            line: 4,
            column: 1,
            ..Diagnostic::error("bottles/p.md", "unknown key `x`")
        };
        let mut all = vec![Diagnostic::error("agents/z.md", "another")];
        for number in 0..30 {
            let file = format!("agents/a{number:02}.md");
            let mut one = Diagnostic::error(file, "the bottle `p` does not validate");
            one.cause = Some("bottles/p.md".to_owned());
            all.push(one);
        }
        all.push(cause.clone());
        all.push(Diagnostic { line: 9, ..cause });
        let text = render_all(&all, Drawing::default());
        assert_eq!(
            text,
            "error: another\n  ┌─ agents/z.md\n\nerror: unknown key `x`\n  ┌─ bottles/p.md:4:1\n  \
             = holds a00, a01, a02 and 27 more\n\nerror: unknown key `x`\n  ┌─ bottles/p.md:9:1\n"
        );
        // Where the cause is not among them, each stands for itself.
        assert_eq!(
            render_all(&all[..4], Drawing::default()).matches("does not validate").count(),
            3
        );
        assert_eq!(holds(&["agents/a.md", "agents/b.md"]), "holds a and b");
        assert_eq!(holds(&["x/agents/a.md"]), "holds a");
    }

    fn found(source: &str, column: usize, width: usize) -> Diagnostic {
        Diagnostic {
            line: 4,
            column,
            width,
            source_line: Some(source.to_owned()),
            ..Diagnostic::error("agents/dennis.md", "unknown key `skils`")
        }
    }

    fn drawn(found: &Diagnostic) -> String {
        render(found, Drawing::default())
    }

    #[test]
    fn a_finding_is_drawn_as_the_contract_shows_it() {
        let found = Diagnostic {
            label: Some("did you mean `skills`?".into()),
            hint: Some("allowed: bottle, skills, command, restart, run, suspend, …".into()),
            ..found("skils: [review]", 1, 5)
        };
        let expected = "\
error: unknown key `skils`
  ┌─ agents/dennis.md:4:1
4 │ skils: [review]
  │ ^^^^^ did you mean `skills`?
  = allowed: bottle, skills, command, restart, run, suspend, …
";
        assert_eq!(drawn(&found), expected);
    }

    #[test]
    fn a_finding_about_a_whole_file_has_no_line() {
        let found =
            Diagnostic::warning("agents/README.md", "this file is skipped").with_hint("rename it");
        let expected = "warning: this file is skipped\n  ┌─ agents/README.md\n  = rename it\n";
        assert_eq!(drawn(&found), expected);
    }

    #[test]
    fn the_caret_stands_under_wide_characters_and_tabs() {
        let text = drawn(&found("\t漢字: x", 5, 1));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "4 │     漢字: x");
        // Four for the tab, two for each of the characters, one for the colon.
        assert_eq!(lines[3], format!("  │ {}^", " ".repeat(4 + 4 + 1)));
    }

    #[test]
    fn nothing_is_wider_than_the_terminal() {
        let long = "x".repeat(300);
        for column in [1, 40, 150, 300, 301] {
            let found = Diagnostic {
                label: Some("a label that says a good deal about what stands here and why".into()),
                hint: Some("word ".repeat(60)),
                message: "many words ".repeat(20),
                ..found(&long, column, 20)
            };
            let text = drawn(&found);
            for line in text.lines() {
                assert!(cells(line) <= 80, "{column}: {line}");
            }
            let caret = text.lines().nth_back(0).is_some() && text.contains("^");
            assert!(caret, "{text}");
        }
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let found = Diagnostic { label: Some("here".into()), ..found("skils: [review]", 1, 5) };
        let coloured = render(&found, Drawing { colour: true, ..Drawing::default() });
        assert!(coloured.contains("\u{1b}["));
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), drawn(&found));
    }
}

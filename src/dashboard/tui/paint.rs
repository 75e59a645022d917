//! Writes text into a buffer. Whatever comes from a guest, a tree or an engine goes through here: nothing of it acts,
//! moves or hides, and nothing is wider than its place.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::app::Looks;
use crate::model::text::{self, spelled_line};

/// What a piece of text is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Ink {
    #[default]
    Plain,
    Bold,
    Dim,
    Good,
    Change,
    Bad,
    Chosen,
}

/// A buffer that takes only what is harmless.
pub(super) struct Paper<'a> {
    pub(super) buffer: &'a mut Buffer,
    pub(super) looks: Looks,
}

impl Paper<'_> {
    fn style(&self, ink: Ink) -> Style {
        let style = Style::new();
        let coloured = |colour| if self.looks.colour { style.fg(colour) } else { style };
        match ink {
            Ink::Plain => style,
            Ink::Bold => style.add_modifier(Modifier::BOLD),
            Ink::Dim => style.add_modifier(Modifier::DIM),
            Ink::Good => coloured(Color::Green),
            Ink::Change => coloured(Color::Yellow),
            Ink::Bad => coloured(Color::Red),
            Ink::Chosen => style.add_modifier(Modifier::REVERSED),
        }
    }

    /// Puts a text on one line, cut where its place ends. Returns where the next one begins.
    pub(super) fn put(&mut self, x: u16, y: u16, width: u16, text: &str, ink: Ink) -> u16 {
        let area = self.buffer.area;
        if y >= area.bottom() || x >= area.right() {
            return x;
        }
        let width = width.min(area.right() - x);
        let end = if self.looks.unicode { '…' } else { '~' };
        let text = cut(&self.spelled(text), width.into(), end);
        let style = self.style(ink);
        self.buffer.set_stringn(x, y, &text, width.into(), style).0
    }

    /// A line of its own.
    pub(super) fn line(&mut self, area: Rect, row: u16, text: &str, ink: Ink) {
        if row < area.height {
            self.put(area.x, area.y + row, area.width, text, ink);
        }
    }

    /// Harmless, and in characters that the terminal has.
    pub(super) fn spelled(&self, text: &str) -> String {
        let text = spelled_line(text);
        if self.looks.unicode { text } else { ascii(&text) }
    }

    /// The same in lines of at most so many columns.
    pub(super) fn wrapped(&self, text: &str, width: usize) -> Vec<String> {
        wrap(&self.spelled(text), width)
    }

    /// Makes everything but these rows dim.
    pub(super) fn dim(&mut self, area: Rect) {
        let style = Style::new().add_modifier(Modifier::DIM);
        self.buffer.set_style(area, style);
    }
}

/// So many columns a character takes. Signs of ours are one column wide.
fn columns_of(c: char) -> usize {
    match c {
        '\u{2010}'..='\u{2027}' | '\u{2190}'..='\u{22ff}' | '⏎' | '\u{2500}'..='\u{25bf}' => 1,
        c => text::columns_of(c),
    }
}

/// So many columns does a text take, at most.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// Cuts a text that is too wide.
fn cut(text: &str, width: usize, end: char) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut taken = 0;
    for c in text.chars() {
        let wide = columns_of(c);
        if taken + wide + 1 > width {
            break;
        }
        taken += wide;
        out.push(c);
    }
    if width > 0 {
        out.push(end);
    }
    out
}

/// Lines of at most so many columns, broken between words where there are any.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(4);
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut taken = 0;
    for word in text.split_inclusive(' ') {
        let wide = columns(word.trim_end_matches(' '));
        if taken + wide > width && taken > 0 {
            lines.push(std::mem::take(&mut line).trim_end().to_owned());
            taken = 0;
        }
        for c in word.chars() {
            let wide = columns_of(c);
            if taken + wide > width {
                if c == ' ' {
                    continue;
                }
                lines.push(std::mem::take(&mut line));
                taken = 0;
            }
            line.push(c);
            taken += wide;
        }
    }
    lines.push(line.trim_end().to_owned());
    lines
}

/// The nearest that ASCII has; what is not ours is spelled out.
fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_ascii() => out.push(c),
            '│' | '┃' => out.push('|'),
            '─' => out.push('-'),
            '┌' | '┐' | '└' | '┘' => out.push('+'),
            '▸' => out.push('>'),
            '·' => out.push('-'),
            '…' => out.push('~'),
            '✓' => out.push('*'),
            '✗' | '×' => out.push('x'),
            '→' => out.push_str("->"),
            '±' => out.push_str("+-"),
            '↑' => out.push('^'),
            '↓' => out.push('v'),
            '⏎' => out.push_str("Enter"),
            c => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole_where_they_fit() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("", 8), [""]);
        assert_eq!(wrap("日本日本", 4), ["日本", "日本"]);
    }

    #[test]
    fn what_is_too_wide_is_cut() {
        assert_eq!(cut("abcdef", 4, '~'), "abc~");
        assert_eq!(cut("日本日本", 5, '…'), "日本…");
        assert_eq!(cut("abc", 0, '…'), "");
    }
}

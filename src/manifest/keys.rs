//! What a section of a manifest may hold: one table, read by the parser and by the JSON Schema.

/// The keys of one map.
#[derive(Debug)]
pub(super) struct Table {
    /// What the map is, for messages: `a bottle`.
    pub(super) what: &'static str,
    /// Every key that may stand in it.
    pub(super) keys: &'static [Key],
    /// Keys that stood in it once, and what replaced them.
    pub(super) removed: &'static [(&'static str, &'static str)],
    /// Words that other tools have for it, and what to write here.
    pub(super) instead: &'static [(&'static str, &'static str)],
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// A second spelling.
    pub(super) alias: Option<&'static str>,
    pub(super) required: bool,
    pub(super) shape: Shape,
    /// For editors.
    pub(super) doc: &'static str,
}

impl Key {
    pub(super) const fn new(name: &'static str, shape: Shape, doc: &'static str) -> Self {
        Self { name, alias: None, required: false, shape, doc }
    }

    pub(super) const fn required(name: &'static str, shape: Shape, doc: &'static str) -> Self {
        Self { required: true, ..Self::new(name, shape, doc) }
    }

    /// A key that another program reads: it is accepted, whatever it holds.
    pub(super) const fn foreign(name: &'static str, doc: &'static str) -> Self {
        Self::new(name, Shape::Any, doc)
    }

    /// A foreign key whose value that program reads as text, whether it is YAML or not.
    pub(super) const fn foreign_text(name: &'static str, doc: &'static str) -> Self {
        Self::new(name, Shape::AnyText, doc)
    }

    /// A key that public files have and no program reads: it is accepted, with a warning.
    pub(super) const fn idle(name: &'static str) -> Self {
        Self::new(name, Shape::Idle, "means nothing, neither to Claude Code nor to `bottle`")
    }

    pub(super) const fn or(self, alias: &'static str) -> Self {
        Self { alias: Some(alias), ..self }
    }
}

/// What may stand under a key.
#[derive(Debug)]
pub(super) enum Shape {
    /// `true` or `false`.
    Flag,
    /// Text, with a regular expression that editors may check.
    Text(Option<&'static str>),
    /// A whole number.
    Whole { min: u64, max: u64 },
    /// A number.
    Number,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list.
    List(&'static Shape),
    /// A map with keys of its own.
    Section(&'static Table),
    /// A map with keys of the operator's choice.
    Names { key: &'static str, value: &'static Shape },
    /// Any of these.
    Either(&'static [Shape]),
    /// Anything at all.
    Any,
    /// Anything at all, even what is not YAML.
    AnyText,
    /// Anything at all, which nobody reads.
    Idle,
}

impl Table {
    /// Finds a key by either spelling.
    pub(super) fn find(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name || key.alias == Some(name))
    }

    /// The keys that another program reads, or none.
    pub(super) fn foreign(&self) -> impl Iterator<Item = &'static str> {
        let foreign = |key: &&Key| matches!(key.shape, Shape::Any | Shape::AnyText | Shape::Idle);
        self.keys.iter().filter(foreign).map(|key| key.name)
    }

    /// Those of them whose values need not be YAML.
    pub(super) fn foreign_text(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().filter(|key| matches!(key.shape, Shape::AnyText)).map(|key| key.name)
    }

    /// The section in which a key of this name may stand.
    pub(super) fn section_of(&self, name: &str) -> Option<&'static str> {
        let holds =
            |key: &&Key| matches!(key.shape, Shape::Section(table) if table.find(name).is_some());
        self.keys.iter().find(holds).map(|key| key.name)
    }

    /// The keys that no program reads.
    pub(super) fn idle(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().filter(|key| matches!(key.shape, Shape::Idle)).map(|key| key.name)
    }

    /// All names that say something, first spellings only.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().filter(|key| !matches!(key.shape, Shape::Idle)).map(|key| key.name)
    }
}

/// The nearest of the words, if one is near enough to be meant.
pub(crate) fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let fold = |text: &str| text.to_lowercase().replace('_', "-");
    let wanted = fold(text);
    // Nobody means a key of ten letters with something much longer.
    if wanted.chars().count() > 64 {
        return None;
    }
    words
        .map(|word| (distance(&wanted, &fold(word)), word))
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// How many insertions, removals, replacements and swaps of neighbours lead from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_if_it_is_near() {
        let words = ["skills", "command", "identity_file", "run", "env"];
        let near = |text| nearest(text, words.into_iter());
        assert_eq!(near("skils"), Some("skills"));
        assert_eq!(near("comand"), Some("command"));
        assert_eq!(near("identity-file"), Some("identity_file"));
        assert_eq!(near("Run"), Some("run"));
        assert_eq!(near("rnu"), Some("run"));
        assert_eq!(near("workspace"), None);
        assert_eq!(near(&"x".repeat(1_000_000)), None);
    }
}

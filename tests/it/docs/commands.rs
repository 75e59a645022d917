use std::collections::{BTreeMap, BTreeSet};

use super::markdown::{Page, code, pages};
use crate::support::Cli;

type Flags = BTreeSet<String>;

/// What the binary says of itself.
struct Binary {
    global: Flags,
    /// Options by command, without the global ones; `policy check` is a command too.
    commands: BTreeMap<String, Flags>,
}

impl Binary {
    fn ask() -> Self {
        let cli = Cli::new();
        let help = cli.run(["--help"]).exits(0).stdout;
        let mut binary = Self { global: flags(&help), commands: BTreeMap::new() };
        for command in subcommands(&help) {
            let help = cli.run([command.as_str(), "--help"]).exits(0).stdout;
            let inner = subcommands(&help);
            for name in &inner {
                let help = cli.run([command.as_str(), name.as_str(), "--help"]).exits(0).stdout;
                binary.commands.insert(format!("{command} {name}"), flags(&help));
            }
            if inner.is_empty() {
                binary.commands.insert(command, flags(&help));
            }
        }
        for own in binary.commands.values_mut() {
            own.retain(|flag| !binary.global.contains(flag));
        }
        binary
    }
}

/// The names in the list of commands.
fn subcommands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let list = list.take_while(|line| !line.is_empty());
    let names = list.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The long options that a help text lists.
fn flags(help: &str) -> Flags {
    let heads = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    heads.filter_map(long_flag).collect()
}

/// The first `--option` of a text.
fn long_flag(text: &str) -> Option<String> {
    let name = text.split_once("--")?.1;
    let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(name.len());
    (end > 0).then(|| format!("--{}", &name[..end]))
}

/// The sections of a page by their headings of this level, as lines.
fn sections<'p>(page: &'p Page, level: &str) -> BTreeMap<&'p str, Vec<&'p str>> {
    let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut current = None;
    for (_, line) in page.prose() {
        if let Some(heading) = line.strip_prefix(level) {
            current = Some(heading.trim());
            sections.entry(heading.trim()).or_default();
        } else if line.starts_with('#') {
            current = None;
        } else if let Some(heading) = current {
            sections.entry(heading).or_default().push(line);
        }
    }
    sections
}

/// The options in the first column of a section's table.
fn documented(lines: &[&str]) -> Flags {
    let rows = lines.iter().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    rows.flat_map(code).filter_map(long_flag).collect()
}

fn differences(what: &str, said: &Flags, is: &Flags) -> Vec<String> {
    let missing = is.difference(said).map(|flag| format!("{what}: {flag} is not documented"));
    missing.chain(said.difference(is).map(|flag| format!("{what}: there is no {flag}"))).collect()
}

#[test]
fn every_command_and_option_is_documented_and_exists() {
    let (binary, page) = (Binary::ask(), Page::of("docs/cli.md"));
    let globals = sections(&page, "## ").remove("Global options").expect("the global options");
    let mut wrong = differences("global", &documented(&globals), &binary.global);
    let mut said: BTreeMap<String, Flags> = BTreeMap::new();
    for (heading, lines) in sections(&page, "### ") {
        let Some(usage) = code(heading).next().and_then(|c| c.strip_prefix("bottle ")) else {
            continue;
        };
        let words = usage.split_whitespace();
        let name = words.take_while(|word| word.chars().all(|c| c.is_ascii_lowercase()));
        said.insert(name.collect::<Vec<_>>().join(" "), documented(&lines));
    }
    for (name, is) in &binary.commands {
        match said.remove(name) {
            None => wrong.push(format!("{name}: this command is not documented")),
            Some(said) => wrong.extend(differences(name, &said, is)),
        }
    }
    wrong.extend(said.keys().map(|name| format!("{name}: there is no such command")));
    assert!(wrong.is_empty(), "docs/cli.md\n{}", wrong.join("\n"));
}

/// The arguments of each `bottle` in a line of shell or of a unit file.
fn invocations(line: &str) -> Vec<Vec<&str>> {
    let line = line.split(" # ").next().unwrap_or_default();
    let parts = line.split(['|', ';']).flat_map(|part| part.split("&&"));
    let arguments = |part: &'_ str| -> Option<usize> {
        let starts = ["bottle ", "cargo run --release -- "];
        let after = |start: &str| {
            let at = part.find(start)?;
            let before = part[..at].chars().last();
            before.is_none_or(|c| " /".contains(c)).then_some(at + start.len())
        };
        starts.iter().find_map(|start| after(start))
    };
    let words = parts.filter_map(|part| Some(part[arguments(part)?..].split_whitespace()));
    words.map(|words| words.take_while(|word| *word != "--").collect()).collect()
}

fn check_invocation(binary: &Binary, words: &[&str]) -> Vec<String> {
    let pairs = words.windows(2).map(|pair| pair.join(" "));
    let names = pairs.chain(words.iter().map(|word| (*word).to_owned()));
    let own = names.filter_map(|name| binary.commands.get(&name)).next();
    let options = words.iter().filter(|word| word.starts_with("--"));
    let unknown = options
        .filter_map(|word| long_flag(word))
        .filter(|flag| !binary.global.contains(flag) && !own.is_some_and(|own| own.contains(flag)));
    let mut wrong: Vec<String> = unknown.map(|flag| format!("there is no {flag}")).collect();
    if own.is_none() && words.iter().any(|word| !word.starts_with('-')) {
        wrong.push("this names no command".to_owned());
    }
    wrong.iter().map(|wrong| format!("`bottle {}`: {wrong}", words.join(" "))).collect()
}

#[test]
fn every_invocation_that_is_shown_is_one() {
    let binary = Binary::ask();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in pages() {
        for fence in page.fences() {
            let shell = match fence.info.as_str() {
                "sh" | "ini" => "",
                "console" => "$ ",
                _ => continue,
            };
            for line in fence.content.lines().filter_map(|line| line.strip_prefix(shell)) {
                if line.starts_with("Description=") || line.starts_with('#') {
                    continue;
                }
                for words in invocations(line) {
                    count += 1;
                    let found = check_invocation(&binary, &words);
                    let at = format!("{}:{}", page.path.display(), fence.line);
                    wrong.extend(found.into_iter().map(|finding| format!("{at}: {finding}")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 10, "only {count} invocations were found: is the reader of fences right?");
}

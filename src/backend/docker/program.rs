//! The program that runs in sidecars: this very executable, or the one that the operator names. It is
//! the only file in a sidecar's image, so it must need no other.
#![expect(clippy::disallowed_methods, reason = "reads bottle's own executable")]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::tarball::digest_of;
use crate::model::SpecHash;

/// The executable of this process, also after its file was replaced or removed.
const SELF: &str = "/proc/self/exe";

/// How to get one that can be used.
const FIX: &str = "use a static bottle, or name one with BOTTLE_SIDECAR_PROGRAM \
                   (docs/operations.md, \"The sidecar's program\", has the command that builds it)";

/// No table of program headers is larger.
const LARGEST_TABLE: usize = 64 << 10;

/// An executable that runs where there is nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    path: PathBuf,
    /// Of its bytes.
    pub digest: SpecHash,
    /// `amd64`, `arm64`, as images spell it.
    pub architecture: &'static str,
}

impl Program {
    /// Reads the one that `named` names, else our own executable.
    ///
    /// An error says what is wrong with it, and what to do.
    pub(super) fn find(named: Option<&Path>) -> Result<Self, String> {
        let (mut file, architecture) = opened(named)?;
        let reading = |error: std::io::Error| unreadable(named, &error);
        file.seek(SeekFrom::Start(0)).map_err(reading)?;
        let digest = digest_of(&mut file).map_err(reading)?;
        let path = named.unwrap_or(Path::new(SELF)).to_owned();
        Ok(Self { path, digest, architecture })
    }

    /// Says whether there is one, by its headers alone: a plan asks, and reads no more than it needs.
    ///
    /// An error is that of [`Program::find`].
    pub(super) fn check(named: Option<&Path>) -> Result<(), String> {
        opened(named).map(drop)
    }

    /// Its bytes, which are those that were looked at.
    pub(super) fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        let bytes = std::fs::read(&self.path)?;
        anyhow::ensure!(
            SpecHash::of_bytes(&bytes) == self.digest,
            "{} changed while bottle was running: run bottle again",
            self.path.display()
        );
        Ok(bytes)
    }
}

/// How messages name the program.
fn shown(named: Option<&Path>) -> String {
    named.map_or_else(
        || "this bottle".to_owned(),
        |path| format!("BOTTLE_SIDECAR_PROGRAM {}", path.display()),
    )
}

fn unreadable(named: Option<&Path>, error: &std::io::Error) -> String {
    format!("{} cannot be read for the sidecar's image: {error}; {FIX}", shown(named))
}

/// Opens the program, and says what it runs on.
fn opened(named: Option<&Path>) -> Result<(File, &'static str), String> {
    let path = named.unwrap_or(Path::new(SELF));
    let mut file = File::open(path).map_err(|error| unreadable(named, &error))?;
    let architecture =
        architecture(&mut file).map_err(|reason| format!("{} {reason}; {FIX}", shown(named)))?;
    Ok((file, architecture))
}

/// Checks that an ELF file asks for no interpreter, and returns what it runs on.
fn architecture(file: &mut (impl Read + Seek)) -> Result<&'static str, String> {
    const PT_INTERP: u32 = 3;
    let mut header = [0u8; 64];
    let no_elf = || "is no executable of 64-bit Linux".to_owned();
    file.read_exact(&mut header).map_err(|_| no_elf())?;
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    // 64 bits, little-endian, an executable or a position-independent one.
    if &header[..6] != b"\x7fELF\x02\x01" || !matches!(half(16), 2 | 3) {
        return Err(no_elf());
    }
    let architecture = match half(18) {
        62 => "amd64",
        183 => "arm64",
        other => return Err(format!("is made for a processor that is not known (ELF {other})")),
    };
    let mut offset = [0u8; 8];
    offset.copy_from_slice(&header[32..40]);
    let (size, count) = (usize::from(half(54)), usize::from(half(56)));
    let table = size * count;
    if size < 4 || table > LARGEST_TABLE {
        return Err(no_elf());
    }
    let mut headers = vec![0; table];
    file.seek(SeekFrom::Start(u64::from_le_bytes(offset))).map_err(|_| no_elf())?;
    file.read_exact(&mut headers).map_err(|_| no_elf())?;
    let interpreted = headers.chunks_exact(size).any(|entry| entry[..4] == PT_INTERP.to_le_bytes());
    if interpreted {
        return Err("is linked to libraries of the system, and the sidecar's image has none".into());
    }
    Ok(architecture)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// An ELF file with program headers of these types.
    fn elf(machine: u16, types: &[u32]) -> Vec<u8> {
        let mut file = vec![0u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[16..18].copy_from_slice(&3u16.to_le_bytes());
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&u16::try_from(types.len()).unwrap().to_le_bytes());
        for kind in types {
            file.extend_from_slice(&kind.to_le_bytes());
            file.extend_from_slice(&[0; 52]);
        }
        file
    }

    fn judge(bytes: Vec<u8>) -> Result<&'static str, String> {
        architecture(&mut Cursor::new(bytes))
    }

    #[test]
    fn an_interpreter_is_refused_and_a_static_one_told_by_its_processor() {
        assert_eq!(judge(elf(62, &[1, 2, 6])), Ok("amd64"));
        assert_eq!(judge(elf(183, &[1])), Ok("arm64"));
        assert!(judge(elf(62, &[6, 3, 1])).unwrap_err().contains("libraries"));
        assert!(judge(elf(8, &[1])).unwrap_err().contains("ELF 8"));
    }

    #[test]
    fn what_is_no_executable_is_refused() {
        let mut relocatable = elf(62, &[1]);
        relocatable[16] = 1;
        let mut cut = elf(62, &[1, 1]);
        cut.truncate(100);
        let mut headless = elf(62, &[1]);
        headless[54] = 0;
        for bytes in [b"#!/bin/sh\n".to_vec(), vec![0; 100], relocatable, cut, headless] {
            assert!(judge(bytes).unwrap_err().contains("no executable"));
        }
    }

    #[test]
    fn a_program_is_known_by_its_digest_and_must_stay_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bottle");
        let bytes = elf(62, &[1]);
        std::fs::write(&path, &bytes).unwrap();
        let program = Program::find(Some(&path)).unwrap();
        assert_eq!(program.digest, SpecHash::of_bytes(&bytes));
        assert_eq!(program.bytes().unwrap(), bytes);
        assert_eq!(Program::check(Some(&path)), Ok(()));
        std::fs::write(&path, elf(62, &[1, 1])).unwrap();
        assert!(program.bytes().unwrap_err().to_string().contains("changed"));
        std::fs::write(&path, elf(62, &[3])).unwrap();
        let error = Program::find(Some(&path)).unwrap_err();
        assert_eq!(Program::check(Some(&path)), Err(error.clone()));
        for part in ["BOTTLE_SIDECAR_PROGRAM", "docs/operations.md", "libraries"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let error = Program::find(Some(&folder.path().join("none"))).unwrap_err();
        assert!(error.contains("cannot be read"), "{error}");
    }
}

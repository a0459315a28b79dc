//! Looks for what would not work anyway: files that do not compile, and imports that neither Python, the bundle nor a
//! requirement provides. Nothing of the bundle runs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

const SCRIPT: &str = include_str!("check.py");
/// Where requirements are: pip's file, and the original's.
const FILES: [&str; 2] = ["requirements.txt", "packages.txt"];
/// Errors that are shown.
const SHOWN: usize = 10;

/// Gives what is worth a word. The interpreter is that of the sandboxes, if this machine has it.
pub fn run(directory: PathBuf, python: &Path) -> Result<Vec<String>> {
    let run = |python: &Path| Command::new(python).args(["-I", "-S", "-c", SCRIPT]).arg(&directory).output();
    let output = match run(python) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => run(Path::new("python3")),
        other => other,
    };
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(vec!["not checked, for there is no python3 on this machine".to_owned()]);
        }
        other => other.context("cannot run python3")?,
    };
    let said: Option<Value> = serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success());
    let Some(said) = said else {
        let error = String::from_utf8_lossy(&output.stderr);
        let last = error.lines().last().unwrap_or("it was stopped");
        bail!("the code cannot be checked: {last} ({}); --no-check uploads it all the same", output.status);
    };
    let errors: Vec<_> = said["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !errors.is_empty() {
        let shown = errors[..errors.len().min(SHOWN)].join("\n  ");
        bail!("the code does not compile:\n  {shown}");
    }
    Ok(unprovided(&said["foreign"], &requirements(&directory)))
}

/// What is imported and not named by a requirement. One with another name may provide it, so this is no error.
fn unprovided(foreign: &Value, requirements: &[String]) -> Vec<String> {
    let all: BTreeMap<_, _> = foreign.as_object().into_iter().flatten().collect();
    let lacking = all.into_iter().filter(|(module, _)| !requirements.contains(&normal(module)));
    let others = match requirements {
        [] => "and there is no requirements.txt".to_owned(),
        names => format!("unless one of the requirements has it: {}", names.join(", ")),
    };
    let note = |(module, place): (&String, &Value)| {
        format!("{} imports {module}, which nothing provides, {others}", place.as_str().unwrap_or_default())
    };
    lacking.map(note).collect()
}

/// The names of what is required, as far as that can be told.
fn requirements(directory: &Path) -> Vec<String> {
    let texts = FILES.iter().filter_map(|name| fs::read_to_string(directory.join(name)).ok());
    let mut names = Vec::new();
    for text in texts {
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '-'])) {
            // The original's lines have what is imported before a colon, and what is installed behind it.
            for part in line.split(':').take(2) {
                let end = part.find(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)));
                let name = normal(&part[..end.unwrap_or(part.len())]);
                if !name.is_empty() && !names.contains(&name) {
                    names.push(name);
                }
            }
        }
    }
    names
}

/// Modules have `_` where packages have `-` or `.`.
fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)]) -> Result<Vec<String>> {
        let work = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::create_dir_all(work.path().join(name).parent().unwrap()).unwrap();
            fs::write(work.path().join(name), text).unwrap();
        }
        run(work.path().to_owned(), Path::new("/usr/bin/python3"))
    }

    #[test]
    fn what_compiles_and_has_its_imports_is_fine() {
        let code = "from __future__ import annotations\nimport json, os.path, helper, lib.deep, numpy.linalg\n\
                    from . import x\nfrom foo_bar import y\nimport jedi\n";
        let notes = check(&[
            ("lambda_func.py", code),
            ("helper.py", "raise SystemExit('it must not run')\n"),
            ("lib/deep.py", ""),
            ("requirements.txt", "# c\nnumpy>=2\nFoo-Bar==1 ; python_version > '3'\n"),
            ("packages.txt", "jedi:jedi\n"),
        ]);
        assert_eq!(notes.unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_compile_is_refused_with_its_place() {
        let error = check(&[("lambda_func.py", "x = 1\ndef handler(event)\n")]).unwrap_err().to_string();
        assert!(error.contains("lambda_func.py, line 2: "), "{error}");
        let error = check(&[("a/b.py", "return 1\n"), ("c.py", "x = (\0)")]).unwrap_err().to_string();
        assert!(error.contains("a/b.py, line 1") && error.contains("c.py"), "{error}");
    }

    #[test]
    fn imports_that_nothing_provides_are_named() {
        let notes = check(&[("f.py", "import json\nimport yaml\n")]).unwrap();
        assert_eq!(
            notes,
            ["f.py, line 2 imports yaml, which nothing provides, and there is no requirements.txt"]
        );
        let notes = check(&[("f.py", "import yaml\n"), ("requirements.txt", "PyYAML\n")]).unwrap();
        assert!(notes[0].ends_with("unless one of the requirements has it: pyyaml"), "{notes:?}");
    }

    #[test]
    fn code_that_is_too_much_for_the_compiler_is_no_end() {
        let deep = format!("x = {}1{}\n", "(".repeat(5000), ")".repeat(5000));
        let error = check(&[("f.py", &deep)]).unwrap_err().to_string();
        assert!(error.contains("f.py"), "{error}");
    }
}

//! A given tree of Zygotes, in the original's form: nested `{"packages": […], "children": […]}`, other keys ignored.

use std::path::Path;

use serde_json::Value;

use super::paths;
use crate::file;
use crate::section::Section;

/// Deepest nesting.
const MAX_DEPTH: usize = 32;
/// Nodes of a tree.
const MAX_NODES: usize = 1000;

/// A node, and what is below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportTree {
    /// What it imports on top of its parent: `name` or `name==version`. The root's are empty.
    pub packages: Vec<String>,
    /// What is forked from it.
    pub children: Vec<ImportTree>,
}

/// Reads `import_cache_tree`: an object, the same as a string of JSON, or the path of a file that holds it.
pub(crate) fn read(root: &mut Section<'_>, directory: &Path) -> Option<ImportTree> {
    root.optional("import_cache_tree", |value| {
        let parsed;
        let tree = match value {
            Value::String(text) if text.trim_start().starts_with('{') => {
                parsed = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
                &parsed
            }
            Value::String(path) => {
                parsed = file::read(&paths::join(directory, path)).map_err(|error| error.to_string())?;
                &parsed
            }
            other => other,
        };
        let mut count = 0;
        let tree = node(tree, 0, &mut count)?;
        if tree.packages.is_empty() {
            Ok(tree)
        } else {
            Err("must have no packages at its root, which is bare Python".into())
        }
    })
}

fn node(value: &Value, depth: usize, count: &mut usize) -> Result<ImportTree, String> {
    *count += 1;
    if depth > MAX_DEPTH || *count > MAX_NODES {
        return Err(format!("must have at most {MAX_NODES} nodes, nested at most {MAX_DEPTH} deep"));
    }
    let form = || "must be {\"packages\": [names], \"children\": [nodes of the same form]}".to_owned();
    let map = value.as_object().ok_or_else(form)?;
    let list = |key: &str| match map.get(key) {
        None | Some(Value::Null) => Ok(&[][..]),
        Some(Value::Array(list)) => Ok(list.as_slice()),
        Some(_) => Err(form()),
    };
    let name =
        |value: &Value| value.as_str().filter(|name| !name.is_empty()).map(str::to_owned).ok_or_else(form);
    Ok(ImportTree {
        packages: list("packages")?.iter().map(name).collect::<Result<_, _>>()?,
        children: list("children")?
            .iter()
            .map(|child| node(child, depth + 1, count))
            .collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_key(value: Value, directory: &Path) -> (Option<ImportTree>, Vec<String>) {
        let file = json!({"import_cache_tree": value});
        let mut root = Section::root(&file);
        let tree = read(&mut root, directory);
        (tree, root.finish().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_tree_is_taken_inline_as_text_and_from_a_file() {
        let tree = json!({"packages": [], "split_generation": 3, "children": [
            {"packages": ["numpy"], "children": [{"packages": ["pandas==2.2.3"], "children": []}]}, {"packages": ["six"]}
        ]});
        let leaf = |name: &str| ImportTree { packages: vec![name.into()], children: vec![] };
        let numpy = ImportTree { packages: vec!["numpy".into()], children: vec![leaf("pandas==2.2.3")] };
        let want = ImportTree { packages: vec![], children: vec![numpy, leaf("six")] };
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("tree.json"), tree.to_string()).unwrap();
        for value in [tree.clone(), json!(tree.to_string()), json!("tree.json")] {
            assert_eq!(read_key(value, directory.path()), (Some(want.clone()), vec![]));
        }
    }

    #[test]
    fn what_is_no_tree_is_told() {
        let mut deep = json!({"packages": ["x"]});
        for _ in 0..40 {
            deep = json!({"children": [deep]});
        }
        for (value, want) in [
            (json!({"packages": ["numpy"]}), "no packages at its root"),
            (json!({"children": [{"packages": "numpy"}]}), "must be {\"packages\""),
            (json!([1]), "must be {\"packages\""),
            (json!("{"), "is no JSON"),
            (json!("missing.json"), "missing.json"),
            (deep, "nested at most"),
        ] {
            let (tree, problems) = read_key(value, Path::new("/none"));
            assert!(
                tree.is_none() && problems.len() == 1 && problems[0].contains(want),
                "{want}: {problems:?}"
            );
        }
    }
}

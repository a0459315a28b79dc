//! Lays one JSON value over another: what `admin setconf` does to the template.

use serde_json::Value;

/// Lays `patch` over `base`. Objects are merged key by key at any depth; anything else replaces what was there;
/// `null` removes the key, so that its default is back.
pub fn merge(base: &mut Value, patch: &Value) {
    let (Value::Object(base), Value::Object(patch)) = (&mut *base, patch) else {
        patch.clone_into(base);
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            base.shift_remove(key);
        } else if let Some(old) = base.get_mut(key) {
            merge(old, value);
        } else {
            // Through an empty object, so that nulls inside do not arrive as values.
            let mut fresh =
                if value.is_object() { Value::Object(serde_json::Map::new()) } else { Value::Null };
            merge(&mut fresh, value);
            base.insert(key.clone(), fresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_merged_and_the_rest_replaced() {
        let mut base = json!({"a": 1, "limits": {"memory": "128Mi", "pids": 64}, "list": [1, 2]});
        merge(&mut base, &json!({"limits": {"pids": 32, "cpu": "1"}, "list": [3], "b": {"c": 1, "d": null}}));
        assert_eq!(
            base,
            json!({"a": 1, "limits": {"memory": "128Mi", "pids": 32, "cpu": "1"}, "list": [3], "b": {"c": 1}})
        );
    }

    #[test]
    fn null_brings_the_default_back() {
        let mut base = json!({"a": 1, "b": 2, "c": {"d": 1}});
        merge(&mut base, &json!({"a": null, "c": {"d": null}, "absent": null}));
        assert_eq!(base, json!({"b": 2, "c": {}}));
    }

    #[test]
    fn a_scalar_gives_way_to_an_object_and_back() {
        let mut base = json!({"a": 1, "b": {"c": 1}});
        merge(&mut base, &json!({"a": {"x": 1}, "b": 2}));
        assert_eq!(base, json!({"a": {"x": 1}, "b": 2}));
    }
}

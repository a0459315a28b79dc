//! The handler contract of the original.

use anyhow::{Result, ensure};
use openlambda_tests::{Cluster, Request, until};
use serde_json::{Value, json};

const ECHO: &str = "def handler(event):\n    return event\n";

#[test]
fn json_goes_in_and_comes_out() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("echo", ECHO)?;
    for event in [json!({"a": [1, 2.5, null, "ä\u{1f40d}"]}), json!("text"), json!(0), json!(null), json!([])]
    {
        let response = cluster.call("echo", &event)?;
        ensure!(response.ok()? == event, "{event}");
        ensure!(response.header("content-type") == Some("application/json"));
    }
    cluster.stop()
}

#[test]
fn every_verb_reaches_the_handler_and_an_empty_body_is_null() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("echo", "def handler(event):\n    return [event]\n")?;
    for verb in ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"] {
        for path in ["/run/echo", "/runLambda/echo", "/runLambda/echo/sub/path?query=1"] {
            let response = cluster.send(&Request::new(verb, path))?;
            ensure!(response.ok()? == json!([null]), "{verb} {path}");
        }
    }
    let response = cluster.send(&Request::new("PUT", "/run/echo").body("7"))?;
    ensure!(response.ok()? == json!([7]));
    cluster.stop()
}

#[test]
fn errors_of_the_handler_are_its_own() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("raise", "def handler(event):\n    return 1 / event\n")?;
    let response = cluster.call("raise", &json!(0))?;
    response.error(500, "function_error")?;
    let body = response.json()?;
    ensure!(body["errorType"] == "ZeroDivisionError" && body["component"] == "function", "{body}");
    let traceback = body["traceback"].as_str().unwrap_or_default();
    ensure!(traceback.contains("/handler/lambda_func.py\", line 2, in handler"), "{traceback}");
    ensure!(!traceback.contains("server.py"), "{traceback}");
    ensure!(cluster.call("raise", &json!(2))?.ok()? == json!(0.5));

    cluster.handler("exit", "import sys\ndef handler(event):\n    sys.exit('stop')\n")?;
    ensure!(cluster.call("exit", &Value::Null)?.json()?["errorType"] == "SystemExit");

    cluster.handler("set", "def handler(event):\n    return {1, 2}\n")?;
    let message = cluster.call("set", &Value::Null)?.error(500, "function_error")?;
    ensure!(message.contains("set"), "{message}");
    cluster.handler("nan", "def handler(event):\n    return float('nan')\n")?;
    cluster.call("nan", &Value::Null)?.error(500, "function_error")?;

    let bad = Request::new("POST", "/run/raise").body("{not json");
    cluster.send(&bad)?.error(400, "bad_event")?;
    cluster.stop()
}

#[test]
fn code_that_does_not_load_names_the_line() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("syntax", "def handler(event):\n    return (\n")?;
    let response = cluster.call("syntax", &Value::Null)?;
    let message = response.error(500, "import_failed")?;
    ensure!(message.contains("lambda_func.py") && message.contains('2'), "{message}");
    cluster.handler("import", "import os\nimport no_such_module\ndef handler(event):\n    return 1\n")?;
    let response = cluster.call("import", &Value::Null)?;
    let message = response.error(500, "import_failed")?;
    ensure!(message.contains("no_such_module") && message.contains('2'), "{message}");
    cluster.handler("nameless", "def other(event):\n    return 1\n")?;
    let message = cluster.call("nameless", &Value::Null)?.error(500, "import_failed")?;
    ensure!(message.contains("handler"), "{message}");
    // Mended, each serves.
    for name in ["syntax", "import", "nameless"] {
        cluster.handler(name, ECHO)?;
        until("the mended handler", || Ok((cluster.call(name, &json!(1))?.status == 200).then_some(())))?;
    }
    cluster.stop()
}

#[test]
fn output_reaches_the_log_with_handler_and_request() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    let source = "import sys, os\ndef handler(event):\n    print('to stdout', event)\n    print('to stderr', file=sys.stderr)\n    \
                  os.system('echo from a child')\n    return None\n";
    cluster.handler("prints", source)?;
    for id in ["first-id", "second-id"] {
        let response = cluster.send(&Request::call("prints", &json!(id)).header("X-Request-Id", id))?;
        ensure!(response.ok()? == Value::Null && response.header("x-request-id") == Some(id));
    }
    let log = cluster.log(0)?;
    for id in ["first-id", "second-id"] {
        for text in [format!("to stdout {id}"), "to stderr".into(), "from a child".into()] {
            let found = log.lines().any(|l| l.contains(&text) && l.contains("prints") && l.contains(id));
            ensure!(found, "no line with {text:?}, the handler and {id}:\n{log}");
        }
    }
    cluster.stop()
}

#[test]
fn files_of_the_bundle_and_scratch_space() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    let source = r"
import pathlib
import helper
def handler(event):
    data = pathlib.Path(__file__).with_name('data.txt').read_text()
    written = []
    for directory in ('/host', '/tmp', '/handler', '/', '/usr'):
        try:
            pathlib.Path(directory, 'probe').write_text('x')
            written.append(directory)
        except OSError:
            pass
    return [data, helper.VALUE, written, __name__]
";
    cluster.handler("files", source)?;
    let dir = cluster.path().join("registry/files");
    std::fs::write(dir.join("data.txt"), "data")?;
    std::fs::write(dir.join("helper.py"), "VALUE = 42\n")?;
    ensure!(
        cluster.call("files", &Value::Null)?.ok()? == json!(["data", 42, ["/host", "/tmp"], "lambda_func"])
    );
    // What one sandbox writes is not another's.
    cluster.stop()
}

//! A thousand Handlers at once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use openlambda_tests::kubernetes::{Release, handler, kubectl};
use openlambda_tests::{until, until_within};
use serde_json::{Value, json};

const COUNT: usize = 1000;

#[test]
fn a_thousand_handlers_at_once() -> Result<()> {
    let release = Release::install("many")?;
    let items: Vec<Value> = (0..COUNT)
        .map(|number| {
            handler(&format!("many-{number}"), &format!("def handler(event):\n    return {number}\n"))
        })
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let start = Instant::now();
    let created = release.namespace.attempt(&["create", "-f", "-"], &list)?;
    ensure!(created.success, "{}", created.text);
    let sent = start.elapsed();
    until_within(Duration::from_secs(120), "a thousand Ready Handlers", || {
        let cluster = release.namespace.get("lambdacluster/demo")?;
        Ok((cluster["status"]["handlers"]["summary"] == "1000/1000").then_some(()))
    })?;
    println!("1,000 Handlers: created after {sent:.1?}, Ready after {:.1?}", start.elapsed());
    for number in [0, 499, 999] {
        ensure!(release.call(&format!("many-{number}"), &json!(null))?.ok()? == json!(number));
    }
    a_new_operator_writes_nothing(&release)?;
    release.namespace.kubectl(&["delete", "handlers", "--all", "--wait=false"])?;
    until_within(Duration::from_secs(120), "no handler on any agent", || {
        for agent in release.agents()? {
            let handlers = release.namespace.admin(&agent, "/debug/handlers")?.to_string();
            if handlers.contains("many-") {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

/// One that starts looks at every object; none of them needs a change.
fn a_new_operator_writes_nothing(release: &Release) -> Result<()> {
    let select = "app.kubernetes.io/component=operator";
    let old = release.namespace.pods_of(select)?;
    let version =
        |object: &Value| (object["metadata"]["name"].clone(), object["metadata"]["generation"].clone());
    let before: Vec<_> =
        release.namespace.list("daemonsets,deployments,configmaps,services")?.iter().map(version).collect();
    release.namespace.kubectl(&["delete", "pods", "-l", select])?;
    let pod = until("the new operator", || {
        Ok(release.namespace.pods_of(select)?.into_iter().find(|pod| !old.contains(pod)))
    })?;
    let metrics = || -> Option<String> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:9080/proxy/metrics", release.namespace.name());
        kubectl(&["get", "--raw", &path]).ok()
    };
    // Each of its rounds looks at all Handlers; it is through when it has asked the agents and nothing is open.
    let text = until("rounds over a thousand Handlers", || {
        let through = |text: &String| {
            sum(text, "operator_reconciles_total{kind=\"Handler\"") >= 3.0
                && sum(text, "operator_agent_polls_total{result=\"ok\"") >= 2.0
                && text.contains("operator_unsettled_handlers 0\n")
        };
        Ok(metrics().filter(through))
    })?;
    // The children of the LambdaCluster are applied once, which changes nothing.
    let writes = sum(&text, "what=\"handler status\"") + sum(&text, "what=\"cluster status\"");
    ensure!(writes == 0.0, "a new operator wrote {writes} times:\n{text}");
    ensure!(
        release.namespace.list("daemonsets,deployments,configmaps,services")?.iter().map(version).eq(before)
    );
    Ok(())
}

/// The sum of the samples whose line begins so.
fn sum(metrics: &str, begin: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.contains(begin) && !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

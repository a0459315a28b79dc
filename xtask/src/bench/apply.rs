//! `bench apply`: from the write of a Handler to its first answer, first and warm calls, on a Kubernetes of two nodes;
//! beside it the same function as a Deployment with a Service.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::Bench;
use super::kubernetes::{EVENT, Kubernetes, NAME, create, delete, first_call, get, handler, objects};
use super::report::{Bound, Report};
use super::subject::{calls, throughput};
use crate::http::{Connection, Request};

const HELLO: &str = "def handler(event):\n    return \"Hello, %s!\" % event[\"name\"]\n";
const POD: &str = include_str!("../../anchors/python_pod.py");
/// Handlers of each kind per round.
const HANDLERS: u32 = 10;
const CALLS: u32 = 2000;
const CONNECTIONS: usize = 16;
const CALLS_EACH: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures.
pub fn run(bench: &Bench) -> Result<Report> {
    let kubernetes = Kubernetes::start(bench, &json!({}))?;
    let lard = kubernetes.node_port(NAME)?;
    let mut api = kubernetes.api()?;
    let mut report = Report::new("apply");
    create(&mut api, &objects("handlers"), &handler("warm", HELLO))?;
    create(&mut api, &config_maps(), &code())?;
    let pod = deployment(&kubernetes, &mut api, "bare")?.1;
    kubernetes.wait_for_handlers(1)?;
    for round in 1..=bench.rounds {
        eprintln!("round {round} of {}", bench.rounds);
        let names: Vec<String> = (0..HANDLERS).map(|number| format!("first-{round}-{number}")).collect();
        let times = names.iter().map(|name| write_to_answer(&mut api, lard, name)).collect::<Result<_>>()?;
        report.add("Handler: write to first answer", "ms", times);
        let (time, _) = deployment(&kubernetes, &mut api, &format!("bare-{round}"))?;
        report.add("Deployment: write to first answer", "ms", vec![time]);
        let names: Vec<String> = (0..HANDLERS).map(|number| format!("ready-{round}-{number}")).collect();
        for name in &names {
            create(&mut api, &objects("handlers"), &handler(name, HELLO))?;
        }
        kubernetes.wait_for_handlers((1 + round * 2 * HANDLERS) as usize)?;
        let times = names.iter().map(|name| first_call(lard, name)).collect::<Result<_>>()?;
        report.add("first call of a Ready Handler", "ms", times);
        for (address, path, one, sixteen) in [
            (lard, "/run/warm", "Handler, 1 connection", "Handler, 16 connections"),
            (pod, "/", "bare pod, 1 connection", "bare pod, 16 connections"),
        ] {
            let request = Request::post(path, EVENT);
            let times = calls(address, &request, CALLS, Duration::ZERO)?;
            report.add(one, "ms", times.into_iter().map(|us| us / 1e3).collect());
            let many = vec![request; CONNECTIONS];
            report.add(sixteen, "/s", vec![throughput(address, &many, CALLS_EACH, false)?]);
        }
    }
    bounds(&mut report);
    Ok(report)
}

fn bounds(report: &mut Report) {
    report.figure("Handler: write to first answer", Bound::AtMost(50.0));
    report.figure("Deployment: write to first answer", Bound::None);
    report.ratio("Handler: write to first answer", "Deployment: write to first answer", Bound::None);
    report.figure("first call of a Ready Handler", Bound::AtMost(4.0));
    report.figure("Handler, 1 connection", Bound::AtMost(0.35));
    report.ratio("Handler, 1 connection", "bare pod, 1 connection", Bound::None);
    report.figure("Handler, 16 connections", Bound::AtLeast(8000.0));
    report.ratio("Handler, 16 connections", "bare pod, 16 connections", Bound::None);
    report.note("Calls go through a NodePort; writes to the API through `kubectl proxy`. The client shares the machine.".into());
    report.note("The p99 of `write to first answer` is to be at most 200 ms.".into());
}

/// Milliseconds from the write to the first 200.
fn write_to_answer(api: &mut Connection, lard: SocketAddr, name: &str) -> Result<f64> {
    let request = Request::post(&format!("/run/{name}"), EVENT);
    let mut connection = Connection::open(lard)?;
    let start = Instant::now();
    create(api, &objects("handlers"), &handler(name, HELLO))?;
    loop {
        let response = connection.call(&request)?;
        match response.status {
            200 => return Ok(start.elapsed().as_secs_f64() * 1e3),
            404 if start.elapsed() < PATIENCE => {}
            other => bail!("{name} answered {other} {}", response.text()),
        }
        // Between two looks; it is part of what is measured.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Milliseconds from the write of a Deployment and a Service to the first answer, and where it answers.
fn deployment(kubernetes: &Kubernetes, api: &mut Connection, name: &str) -> Result<(f64, SocketAddr)> {
    let start = Instant::now();
    create(api, &format!("/api/v1/namespaces/{NAME}/services"), &service(name))?;
    create(api, &format!("/apis/apps/v1/namespaces/{NAME}/deployments"), &pods(name))?;
    // Not by kubectl, whose start would count.
    let address = kubernetes.at(&get(api, &format!("/api/v1/namespaces/{NAME}/services/{name}"))?)?;
    let request = Request::post("/", EVENT);
    loop {
        let answer = Connection::open(address).and_then(|mut connection| connection.call(&request));
        if answer.is_ok_and(|answer| answer.status == 200) {
            break;
        }
        if start.elapsed() > PATIENCE {
            bail!("the Deployment {name} did not answer within {PATIENCE:?}");
        }
        // Between two looks.
        std::thread::sleep(Duration::from_millis(5));
    }
    let time = start.elapsed().as_secs_f64() * 1e3;
    if name != "bare" {
        delete(api, &format!("/apis/apps/v1/namespaces/{NAME}/deployments/{name}"))?;
        delete(api, &format!("/api/v1/namespaces/{NAME}/services/{name}"))?;
    }
    Ok((time, address))
}

fn config_maps() -> String {
    format!("/api/v1/namespaces/{NAME}/configmaps")
}

fn code() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"pod.py": POD}})
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "NodePort", "selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}})
}

/// The agents' image has a Python and is on the nodes already.
fn pods(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "python", "image": "localhost/openlambda-node-agent:dev", "imagePullPolicy": "IfNotPresent",
                "command": ["/usr/bin/python3", "/code/pod.py"],
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                "volumeMounts": [{"name": "code", "mountPath": "/code"}],
            }],
            "volumes": [{"name": "code", "configMap": {"name": "code"}}],
        }},
    }})
}

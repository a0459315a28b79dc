"""The test of `helm test`: makes a Handler, waits until it is Ready, calls it through lard, removes it."""
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/"
API = "https://%s:%s/apis/openlambda.dev/v1alpha1/namespaces/%s/" % (
    os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"], os.environ["NAMESPACE"])
DEADLINE = time.monotonic() + float(os.environ["TIMEOUT"])
CODE = 'def handler(event):\n    return "Hello, %s!" % event["name"]\n'


def api(method, path, body=None):
    with open(ACCOUNT + "token") as token:
        headers = {"Authorization": "Bearer " + token.read(), "Content-Type": "application/json"}
    request = urllib.request.Request(API + path, body and json.dumps(body).encode(), headers, method=method)
    context = ssl.create_default_context(cafile=ACCOUNT + "ca.crt")
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        sys.exit("%s %s: %s" % (method, path, error.read().decode()))


def cluster():
    wanted, found = os.environ["CLUSTER"], api("GET", "lambdaclusters")["items"]
    found = [one for one in found if wanted in ("", one["metadata"]["name"])]
    if len(found) != 1:
        sys.exit("there are %d LambdaClusters to test: set test.cluster to the name of one" % len(found))
    return found[0]


def wait(name):
    while True:
        conditions = api("GET", "handlers/" + name).get("status", {}).get("conditions", [])
        ready = next((one for one in conditions if one["type"] == "Ready"), {})
        if ready.get("status") == "True":
            return
        if time.monotonic() > DEADLINE:
            sys.exit("the Handler is not Ready: %s" % (ready.get("message") or "it has no status"))
        time.sleep(0.2)


def call(service, port, name):
    url = "http://%s:%d/run/%s" % (service, port, name)
    with urllib.request.urlopen(url, json.dumps({"name": "helm"}).encode(), timeout=30) as response:
        return json.load(response)


def main():
    target = cluster()
    name = "helm-test-%d" % time.time()
    service, port = target["metadata"]["name"], target["spec"]["loadBalancer"]["service"]["port"]
    spec = {"cluster": service, "source": {"inline": CODE}}
    api("POST", "handlers", {"apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler", "metadata": {"name": name}, "spec": spec})
    try:
        wait(name)
        answer = call(service, port, name)
    finally:
        api("DELETE", "handlers/" + name)
    if answer != "Hello, helm!":
        sys.exit("the answer was %r" % (answer,))
    print("a Handler was made, answered %r and was removed" % answer)


main()

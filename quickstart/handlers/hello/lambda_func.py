"""Greets: {"name": "Alice"} -> "Hello, Alice!"."""


def handler(event):
    try:
        return "Hello, {}!".format(event["name"])
    except (KeyError, TypeError) as error:
        return {"error": "the event must be an object with a name: {!r}".format(error)}

# SPDX-License-Identifier: GPL-2.0-only
"""query-qmp-schema read as a client does: is a value of this type?"""

JSON = {"string": str, "int": int, "boolean": bool, "number": (int, float),
        "null": type(None)}


class Schema:
    def __init__(self, entities):
        self.of = {e["name"]: e for e in entities}
        assert len(self.of) == len(entities), "a name is there twice"
        self.entities = entities

    def all(self, meta):
        return [e for e in self.entities if e["meta-type"] == meta]

    def references(self, e):
        """Names of the types that an entity is made of."""
        meta = e["meta-type"]
        if meta == "object":
            return [m["type"] for m in e["members"] + e.get("variants", [])]
        if meta == "alternate":
            return [m["type"] for m in e["members"]]
        if meta == "array":
            return [e["element-type"]]
        if meta == "command":
            return [e["arg-type"], e["ret-type"]]
        return [e["arg-type"]] if meta == "event" else []

    def check(self, name, value, path="value"):
        """Raises ValueError, with what is wrong and where."""
        getattr(self, "_" + self.of[name]["meta-type"])(self.of[name], value, path)

    @staticmethod
    def _builtin(e, value, path):
        if e["json-type"] == "value":
            return
        good = isinstance(value, JSON[e["json-type"]])
        if isinstance(value, bool) and e["json-type"] in ("int", "number"):
            good = False
        if not good:
            raise ValueError(f"{path}: {value!r} is no {e['name']}")

    @staticmethod
    def _enum(e, value, path):
        if value not in [m["name"] for m in e["members"]]:
            raise ValueError(f"{path}: {value!r} is no {e['name']}")

    def _array(self, e, value, path):
        if not isinstance(value, list):
            raise ValueError(f"{path}: {value!r} is no array")
        for i, v in enumerate(value):
            self.check(e["element-type"], v, f"{path}[{i}]")

    def _alternate(self, e, value, path):
        wrong = []
        for m in e["members"]:
            try:
                self.check(m["type"], value, path)
                return
            except ValueError as x:
                wrong.append(str(x))
        raise ValueError("; ".join(wrong))

    def members(self, e, value):
        got = list(e["members"])
        for v in e.get("variants", []):
            if v["case"] == value.get(e["tag"]):
                got += self.of[v["type"]]["members"]
        return got

    def _object(self, e, value, path):
        if not isinstance(value, dict):
            raise ValueError(f"{path}: {value!r} is no object")
        left = set(value)
        for m in self.members(e, value):
            left.discard(m["name"])
            if m["name"] in value:
                self.check(m["type"], value[m["name"]], f"{path}.{m['name']}")
            elif "default" not in m:
                raise ValueError(f"{path}: {m['name']} is missing")
        if left:
            raise ValueError(f"{path}: not in the schema: {sorted(left)}")

    def check_return(self, command, value):
        self.check(self.of[command]["ret-type"], value, command)

    def check_event(self, event):
        e = self.of.get(event["event"])
        if not e or e["meta-type"] != "event":
            raise ValueError(f"{event['event']} is not in the schema")
        self.check(e["arg-type"], event.get("data", {}), event["event"])

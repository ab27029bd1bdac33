# SPDX-License-Identifier: GPL-2.0-only
"""A real browser without a screen, told what to do over its debugging pipe: tabs, keys,
files that are picked, and what stands on the page."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time

LIMIT = 180


class Chromium:
    def __init__(self, *options):
        self.home = tempfile.mkdtemp(prefix="spicebd-chromium.")
        to_r, self.to = os.pipe()
        self.back, back_w = os.pipe()
        # Descriptors 3 and 4 are the pipe's; the shell renumbers what was passed.
        script = f'exec "$@" 3<&{to_r} 4>&{back_w}'
        self.log = open(f"{self.home}/log", "w", encoding="utf8")
        self.p = subprocess.Popen(
            ["bash", "-c", script, "bash", "chromium", "--headless=new", "--no-sandbox",
             "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
             "--disable-background-networking", "--disable-component-update",
             f"--user-data-dir={self.home}/profile", "--remote-debugging-pipe", *options],
            pass_fds=[to_r, back_w], stdout=self.log, stderr=self.log, start_new_session=True,
            env={**os.environ, "HOME": self.home})
        os.close(to_r)
        os.close(back_w)
        self.cond = threading.Condition()   # guards what follows
        self.answers, self.events, self.ended = {}, [], False
        self.last = 0
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self):
        buf = b""
        while data := os.read(self.back, 1 << 16):
            *whole, buf = (buf + data).split(b"\0")
            for m in map(json.loads, whole):
                with self.cond:
                    if "id" in m:
                        self.answers[m["id"]] = m
                    else:
                        self.events.append(m)
                    self.cond.notify_all()
        with self.cond:
            self.ended = True
            self.cond.notify_all()

    def send(self, method, session=None, **params):
        """Without its answer, which may come late; its number"""
        self.last += 1
        m = {"id": self.last, "method": method, "params": params}
        if session:
            m["sessionId"] = session
        os.write(self.to, json.dumps(m).encode() + b"\0")
        return self.last

    def call(self, method, session=None, **params):
        n = self.send(method, session, **params)
        with self.cond:
            self.cond.wait_for(lambda: n in self.answers or self.ended, LIMIT)
            answer = self.answers.pop(n, None)
        if answer is None or "error" in answer:
            raise RuntimeError(f"{method}: {answer and answer['error']}")
        return answer["result"]

    def first(self, wanted, what, limit=LIMIT):
        """The first event that is wanted; others are kept."""
        def there():
            return next(filter(wanted, self.events), None)
        with self.cond:
            if not self.cond.wait_for(there, limit):
                raise RuntimeError(f"the browser does not say {what}")
            e = there()
            self.events.remove(e)
        return e

    def wait(self, method, session, limit=LIMIT):
        return self.first(lambda e: e["method"] == method and e.get("sessionId") == session,
                          method, limit)["params"]

    def kill(self):
        os.killpg(self.p.pid, signal.SIGKILL)
        self.p.wait(LIMIT)

    def end(self):
        if self.p.poll() is None:
            self.kill()
        self.log.close()
        shutil.rmtree(self.home, ignore_errors=True)


class Page:
    """A tab."""

    def __init__(self, browser, url):
        self.b = browser
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self.target,
                                    flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Page.navigate", url=url)
        browser.wait("Page.loadEventFired", self.session)

    def call(self, method, **params):
        return self.b.call(method, self.session, **params)

    def js(self, expression):
        r = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                      awaitPromise=True)
        if "exceptionDetails" in r:
            raise RuntimeError(f"{expression}: {r['exceptionDetails']}")
        return r["result"].get("value")

    def text(self, element):
        return self.js(f"document.getElementById('{element}').textContent")

    def wait(self, expression, limit=LIMIT):
        """Until it is true. The page has no event for what stands on it."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if self.js(f"Boolean({expression})"):
                return True
            time.sleep(0.1)
        return False

    def said(self, element, part, limit=LIMIT):
        return self.wait(f"document.getElementById('{element}').textContent.includes("
                         f"{json.dumps(part)})", limit)

    KEYS = {"Tab": ("Tab", 9, ""), "Enter": ("Enter", 13, "\r"), " ": ("Space", 32, " "),
            "ArrowDown": ("ArrowDown", 40, ""), "ArrowUp": ("ArrowUp", 38, "")}

    def key(self, key, shift=False):
        code, number, text = self.KEYS[key]
        how = {"key": key, "code": code, "windowsVirtualKeyCode": number,
               "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **how, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **how)

    def focus(self):
        return self.js("document.activeElement.id")

    def tab_to(self, element, most=20):
        """By the keyboard alone."""
        for _ in range(most):
            if self.focus() == element:
                return True
            self.key("Tab")
        return False

    def enter(self):
        self.key("Enter")

    def tab_order(self, n, last=None):
        """Where n times the key Tab leads from the page's beginning, or with Shift from the
        last element, which counts."""
        if last:
            self.js(f"document.getElementById('{last}').focus()")
        else:
            # What had the focus is where Tab goes on from, unless something else has it.
            self.js("(() => { const b = document.body; b.tabIndex = -1; b.focus(); b.blur();"
                    "b.removeAttribute('tabindex'); })()")
        order = [last] if last else []
        while len(order) < n:
            self.key("Tab", bool(last))
            order.append(self.focus())
        return order

    def accessible_nodes(self):
        """What the browser tells screen readers: [(role, name, {property: value})]"""
        self.call("Accessibility.enable")
        return [(n["role"]["value"], n.get("name", {}).get("value", ""),
                 {p["name"]: p["value"].get("value") for p in n.get("properties", ())})
                for n in self.call("Accessibility.getFullAXTree")["nodes"] if not n["ignored"]]

    def scheme(self, name):
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": name}] if name else [])

    def type(self, text):
        self.call("Input.insertText", text=text)

    def pick(self, element, path):
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=f"#{element}")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[path])

    def choose_by_key(self, element, key, path):
        """The file field's window, opened by a key; a file is picked there."""
        self.call("Page.setInterceptFileChooserDialog", enabled=True)
        self.tab_to(element)
        self.key(key)
        node = self.b.wait("Page.fileChooserOpened", self.session)["backendNodeId"]
        self.call("Page.setInterceptFileChooserDialog", enabled=False)
        self.call("DOM.setFileInputFiles", backendNodeId=node, files=[path])

    def drag(self, selector, path, *kinds):
        """Files from elsewhere, dragged over an element."""
        x, y = self.js("(() => { const e = document.querySelector(" + json.dumps(selector) + ");"
                       "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
                       "return [r.left + r.width / 2, r.top + r.height / 2]; })()")
        for kind in kinds:
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y,
                      data={"items": [], "files": [path], "dragOperationsMask": 1})

    def leave(self, accept, method="Page.reload", **params):
        """As a person who is asked whether to leave, and whose answer that is."""
        self.b.send(method, self.session, **params)
        asked = self.b.wait("Page.javascriptDialogOpening", self.session)["type"]
        self.call("Page.handleJavaScriptDialog", accept=accept)
        return asked

    def complaints(self):
        """What the browser found wrong with the page: refused loads, exceptions."""
        with self.b.cond:
            return [e["params"] for e in self.b.events if e.get("sessionId") == self.session and
                    e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]

    def close(self):
        """As a person closes a tab, and is sure if the page asks. Returns whether it did."""
        def gone(e):
            return e["method"] == "Target.detachedFromTarget" and \
                e["params"]["sessionId"] == self.session

        def asked(e):
            return e["method"] == "Page.javascriptDialogOpening" and \
                e.get("sessionId") == self.session
        self.b.send("Page.close", self.session)
        if gone(self.b.first(lambda e: gone(e) or asked(e), "that the tab closes")):
            return False
        self.b.send("Page.handleJavaScriptDialog", self.session, accept=True)
        self.b.first(gone, "that the tab is closed")
        return True

#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The page in a real browser, before a real spicebd-web and spicebd-link: who sees
little, or has no mouse, can use all of it; files are dropped; how a tab ends."""
# timeout: 400
import os
import shutil

import webtest
import procs
from procs import equal, ok
from chromium import Chromium, Page

webtest.sys.path.insert(0, os.path.join(os.path.dirname(webtest.HERE), "link"))
import linktest as t  # noqa: E402  pylint: disable=wrong-import-position

LIMIT = 180
WORD = "open sesame"
CONTROLS = {"button", "textbox", "combobox", "listbox", "option", "MenuListOption",
            "progressbar", "progressIndicator", "link", "checkbox", "slider"}
BUTTONS = ["insert", "eject", "take"]

# Of everything on the page that has text of its own, the lowest ratio and whose it is, as
# WCAG has it; the same of the edges of what can be used, and of what shows the focus.
CONTRAST = r"""(() => {
	const parts = (c) => c.match(/[\d.]+/g).map(Number);
	const light = (c) => parts(c).slice(0, 3).map((x) => x / 255)
		.map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
		.reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
	const back = (e) => {
		for (; e; e = e.parentElement) {
			const c = getComputedStyle(e).backgroundColor, alpha = parts(c)[3] ?? 1;
			if (alpha === 1)
				return c;
			if (alpha)
				throw new Error("half transparent: what is behind it is not known");
		}
		throw new Error("nothing is behind it");
	};
	const ratio = (c, d) => {
		const [a, b] = [light(c), light(d)];
		return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
	};
	const least = (list) => list.reduce((a, b) => b[0] < a[0] ? b : a, [22, "nothing"]).concat(list.length);
	const seen = [...document.body.querySelectorAll("*")].filter((e) => e.checkVisibility());
	const name = (e) => e.id || e.tagName.toLowerCase();
	const texts = seen.filter((e) => e.matches("input, select") ||
		[...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim()));
	return {
		text: least(texts.map((e) => [ratio(getComputedStyle(e).color, back(e)), name(e)])),
		edge: least(seen.filter((e) => e.matches("input, select, button, #drop")).map((e) =>
			[Math.max(ratio(getComputedStyle(e).borderTopColor, back(e.parentElement)),
				ratio(back(e), back(e.parentElement))), name(e)])),
	};
})()"""
OUTLINE = r"""(() => {
	const s = getComputedStyle(document.activeElement);
	return s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 ? s.outlineColor : "";
})()"""


def contrasts(page, state):
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        c = page.js(CONTRAST)
        (low, whose, texts), (edge, at, edges) = c["text"], c["edge"]
        ok(low >= 4.5 and texts >= 10,
           f"{state}, {scheme}: text has {low:.1f}:1 at least, of {texts} ({whose})", c)
        ok(edge >= 3 and edges >= 6, f"{state}, {scheme}: edges {edge:.1f}:1 of {edges} ({at})", c)
    page.scheme(None)


def names(page, state, *wanted):
    """What is told of every control; wanted: (role, name) that have to be among them"""
    nodes = page.accessible_nodes()
    controls = [(role, name) for role, name, _ in nodes if role in CONTROLS]
    bare = [role for role, name in controls if not name.strip()]
    ok(not bare and len(controls) >= 5, f"{state}: each of {len(controls)} controls has a name", controls)
    missing = [w for w in wanted if w not in controls]
    ok(not missing, f"{state}: they are called as a person sees them", (missing, controls))
    return nodes


def order(page, state, want):
    got = page.tab_order(len(want) + 1)
    equal(got[:-1], want, f"{state}: Tab reaches {len(want)}, from top to bottom")
    ok(got[-1] in ("", want[0]), f"{state}: and is at the page's end then", got)
    equal(page.tab_order(len(want), want[-1]), want[::-1], f"{state}: and back")
    for element in want:
        page.tab_to(element)
        if not page.js(OUTLINE):
            ok(False, f"{state}: it is seen where the keyboard is", element)
            return
    ok(True, f"{state}: it is seen where the keyboard is")


def structure(page):
    nodes = page.accessible_nodes()
    roles = [(role, name) for role, name, _ in nodes]
    ok(("RootWebArea", "Share a disc") in roles, "the page has a title", roles)
    equal(page.js("document.documentElement.lang"), "en", "and a language")
    equal([r for r, _ in roles].count("main"), 1, "one main part")
    heads = [(p.get("level"), name) for role, name, p in nodes if role == "heading"]
    ok(heads[0][0] == 1 and {level for level, _ in heads[1:]} == {2} and all(n for _, n in heads),
       "headings in their order", heads)
    live = {p.get("live"): role for role, _, p in nodes if role in ("status", "alert")}
    equal(live, {"polite": "status", "assertive": "alert"}, "what changes is read out")
    page.call("Emulation.setDeviceMetricsOverride", width=320, height=640, deviceScaleFactor=1,
              mobile=False)
    wide = page.js("document.scrollingElement.scrollWidth")
    ok(wide <= 320, "on 320 pixels nothing has to be scrolled aside", wide)
    page.call("Emulation.clearDeviceMetricsOverride")
    small = page.js("[...document.querySelectorAll('button, input, select')]"
                    ".filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 24)"
                    ".map((e) => e.id).join()")
    equal(small, "", "nothing is too small to be hit")


def login(page, word, key):
    """By the keyboard alone; key: on the field or on the button"""
    page.tab_to("password")
    page.type(word)
    if key == " ":
        page.tab_to("connect")
    page.key(key)


def connects(page):
    login(page, "wrong one", "Enter")
    ok(page.said("error", "password is wrong"), "Enter in the field: a wrong password is told")
    equal(page.focus(), "password", "and it can be typed again at once")
    names(page, "an error", ("button", "Connect"))
    contrasts(page, "an error")
    login(page, WORD, " ")
    ok(page.said("status", "Connected."), "the right one connects; the button by Space")
    equal(page.focus(), "disconnect", "the keyboard is at what took the button's place")
    ok(page.wait("document.querySelectorAll('#drive option').length === 2"), "both drives can be chosen")


def offered(d, port):
    m = d.expect(t.OFFER, timeout=LIMIT, port=port)
    return m.offer, m.offer_fields()


def withdrawn(d, offer):
    return d.expect(t.WITHDRAW, timeout=LIMIT).offer == offer


def moved(d):
    """From one drive to the other; these are two connections, so in any order."""
    return {(m.type, m.port) for m in [d.expect(t.OFFER, t.WITHDRAW, timeout=LIMIT) for _ in range(2)]}


def picks(page, d, files):
    page.choose_by_key("file", "Enter", files["disc"])
    offer, fields = offered(d, 0)
    equal((fields["name"], fields["size"], fields["kind"]),
          ("a disc.iso", os.path.getsize(files["disc"]), 1), "Enter at the field picks a file: it is offered")
    page.tab_to("drive")
    page.key("ArrowDown")
    equal(moved(d), {(t.WITHDRAW, 0), (t.OFFER, 1)}, "the arrows choose the other drive: it has it now")
    page.key("ArrowUp")
    equal(moved(d), {(t.WITHDRAW, 1), (t.OFFER, 0)}, "and back")
    page.choose_by_key("file", " ", files["stick"])
    ok(withdrawn(d, offer), "Space picks another one, in its place")
    offer, fields = offered(d, 0)
    equal((fields["name"], fields["kind"]), ("stick.img", 2), "which is offered")
    return offer


def drops(page, d, files, offer):
    page.drag("#drop", files["disc"], "dragEnter", "dragOver")
    ok(page.wait("document.getElementById('drop').classList.contains('over')"),
       "a file above the page: the place is marked")
    # The debugger's own way to take it away tells the page nothing.
    page.js("document.getElementById('drop').dispatchEvent(new DragEvent('dragleave', {bubbles: true}))")
    ok(page.wait("!document.getElementById('drop').classList.contains('over')"), "gone again: it is not")
    page.drag("#drop", files["disc"], "dragEnter", "dragOver", "drop")
    ok(withdrawn(d, offer), "dropped: it takes the other one's place")
    offer, fields = offered(d, 0)
    equal((fields["name"], fields["size"]), ("a disc.iso", os.path.getsize(files["disc"])), "and is offered")
    h = t.nbd_on(d.open(0, offer).fd)
    with open(files["disc"], "rb") as f:
        want = f.read()
    ok(bytes(h.pread(len(want), 0)) == want, "what is read of it is the file")
    h.shutdown()
    page.drag("h1", files["folder"], "dragEnter", "dragOver", "drop")
    ok(page.said("error", "cannot be shared"), "a folder is refused: " + page.text("error"))
    page.drag("h1", files["empty"], "dragEnter", "dragOver", "drop")
    ok(page.said("error", "is empty"), "and an empty file")
    ok(d.nothing(t.OFFER, t.WITHDRAW), "the drive hears nothing of either")
    page.drag("h1", files["stick"], "dragEnter", "dragOver", "drop")
    ok(withdrawn(d, offer), "dropped elsewhere on the page: likewise")
    equal(page.js("location.pathname"), "/", "the browser does not open it itself")
    return offered(d, 0)[0]


def uses(page, d, offer):
    d.send(t.NOTICE, 0, offer, flags=1)
    ok(page.said("medium", "is in drive 0"), "the drive has it")
    names(page, "in use", ("button", "Disconnect"), ("button", "Insert"), ("button", "Eject"), ("button", "Stop sharing"))
    contrasts(page, "in use")
    order(page, "in use", ["disconnect", "file", *BUTTONS])
    page.tab_to("eject")
    page.key("Enter")
    equal(d.expect(t.EJECT_REQUEST, timeout=LIMIT).offer, offer, "Enter at Eject asks for it")
    d.send(t.NOTICE, 0, offer, flags=5)
    ok(page.said("error", "not ejected"), "it is in use: that is told")
    page.key(" ")
    equal(d.expect(t.EJECT_REQUEST, timeout=LIMIT).offer, offer, "Space does, too")
    d.send(t.NOTICE, 0, offer, flags=2)
    ok(page.said("medium", "is offered to drive 0"), "given back")
    equal(page.focus(), "eject", "the keyboard is where it was")


def ends(browser, page, d, offer):
    """Asked before it leaves; and each way to go."""
    d.send(t.NOTICE, 0, offer, flags=1)
    page.said("medium", "is in drive 0")
    equal(page.leave(accept=False), "beforeunload", "who loads it anew is asked first")
    ok(d.nothing(t.PORT_DOWN) and page.text("medium").endswith("is in drive 0."), "who stays has all as it was")
    page.leave(accept=True)
    equal(d.expect(t.PORT_DOWN, timeout=LIMIT).flags, 1, "who goes: nobody waits for it")


def opened(browser, web):
    return Page(browser, f"{web.origin}/")


def again(browser, link, web, files):
    """A tab of its own each time, and its end as the link's daemon hears of it."""
    for how, flags in (("closed", 1), ("left for another page", 1), ("killed with its browser", 0)):
        link.close()
        link = t.Link(password=WORD, tcp=True)
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        web = webtest.Web(f"127.0.0.1:{link.port}")
        page = opened(browser, web)
        login(page, WORD, "Enter")
        page.said("status", "Connected.")
        page.pick("file", files["disc"])
        d.send(t.NOTICE, 0, offered(d, 0)[0], flags=1)
        page.said("medium", "is in drive 0")
        if how == "closed":
            ok(page.close(), "who closes it while it is in use is asked first")
        elif how.startswith("left"):
            page.leave(True, "Page.navigate", url="about:blank")
        else:
            browser.kill()
        equal(d.expect(t.PORT_DOWN, timeout=LIMIT).flags, flags, f"a tab that is {how}: "
              + ("the drive gives the medium up at once" if flags else "the drive waits for it"))
    link.close()


def make_files():
    made = {n: f"{procs.run_dir}/{f}" for n, f in (
        ("disc", "a disc.iso"), ("stick", "stick.img"), ("folder", "a folder"), ("empty", "empty.iso"))}
    for name, size in (("disc", 3 << 20), ("stick", 100 << 10), ("empty", 0)):
        with open(made[name], "wb") as f:
            f.write(os.urandom(size))
    with open(made["disc"], "r+b") as f:
        f.seek(32768)
        f.write(b"\1CD001")
    os.mkdir(made["folder"])
    return made


def test():
    files = make_files()
    link = t.Link(password=WORD, tcp=True)
    d = link.daemon()
    d.send(t.ADD_PORT, 0)
    d.send(t.ADD_PORT, 1)
    web = webtest.Web(f"127.0.0.1:{link.port}")
    browser = Chromium()
    try:
        page = opened(browser, web)
        structure(page)
        names(page, "at first", ("textbox", "Password of the drive's listener"), ("button", "Connect"),
              ("combobox", "Drive"))
        contrasts(page, "at first")
        order(page, "at first", ["password", "connect", *BUTTONS])
        connects(page)
        order(page, "connected", ["disconnect", "drive", "file", *BUTTONS])
        offer = picks(page, d, files)
        names(page, "offered", ("combobox", "Drive"))
        contrasts(page, "offered")
        offer = drops(page, d, files, offer)
        uses(page, d, offer)
        wrong = [c for c in page.complaints() if "beforeunload" not in str(c)]
        ok(not wrong, "the browser finds nothing wrong with the page", wrong)
        ends(browser, page, d, offer)
        again(browser, link, web, files)
    finally:
        browser.end()
        shutil.rmtree(os.environ["XDG_STATE_HOME"], ignore_errors=True)


procs.main(test, "spicebd-web", "spicebd-link")

// SPDX-License-Identifier: GPL-2.0-only
// The page's elements, and nothing of any protocol. What comes from elsewhere is shown
// as text, never as markup.
import {Share} from "./share.js";

const PATH = "/link", PROTOCOL = "spicebd";
const TICK = 1000;

const $ = (id) => document.getElementById(id);

function connect() {
	const scheme = location.protocol === "https:" ? "wss" : "ws";

	return new WebSocket(`${scheme}://${location.host}${PATH}`, PROTOCOL);
}

function bytes(n) {
	const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
	let i = 0;

	for (; n >= 1024 && i < units.length - 1; i++)
		n /= 1024;
	return `${i ? n.toFixed(1) : n} ${units[i]}`;
}

// Each is heard by who cannot see it; an error stays until something goes well.
function tell(text, isError) {
	$("error").textContent = isError ? text : "";
	if (!isError)
		$("status").textContent = text;
}

const share = new Share(connect, {tell, changed: show});

// As a word of a shell
function quoted(word) {
	return /^[\w.:@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

// Not "disabled": who is at a button by the keyboard would be thrown out of it.
function usable(id, yes) {
	$(id).setAttribute("aria-disabled", String(!yes));
}

function showConnection() {
	const off = share.state === "off", busy = share.state === "connecting";

	const here = document.activeElement === $("disconnect");

	$("connect").hidden = !off;
	$("disconnect").hidden = off;
	$("password").disabled = !off;
	if (off && here)
		$("password").focus();
	if (busy)
		$("status").textContent = "Connecting.";
	else if (off)
		$("status").textContent = "Not connected.";
}

function showDrives() {
	const list = $("drive");
	const drives = [...share.sessions.keys()].sort((a, b) => a - b);
	const shown = [...list.options].map((o) => Number(o.value));

	// Left alone while it is the same, for whoever has it open.
	if (drives.length && drives.join() !== shown.join())
		list.replaceChildren(...drives.map((n) => new Option(`Drive ${n}`, n)));
	if (share.drive !== null)
		list.value = String(share.drive);
	list.disabled = !drives.length || share.inserted;
	$("file").disabled = share.state === "off";
}

function showMedium() {
	const m = share.medium;
	const waits = m && !share.inserted && share.isUp() && !share.session().mayInsert();

	$("medium").textContent = !m ? "Nothing is shared." :
		share.coming ? `${share.coming.name} is to take the place of ${m.name}.` :
			!share.isUp() ? `${m.name} (${bytes(m.size)}) waits for the connection.` :
				!share.inserted ? `${m.name} (${bytes(m.size)}) is offered to drive ${share.drive}.` :
					`${m.name} (${bytes(m.size)}) is in drive ${share.drive}${share.locked ? `, ${share.user || "which is locked"}` : ""}.`;
	$("how").hidden = !waits;
	if (waits)
		$("command").textContent = `spicebdctl insert spicebd${share.drive} ${quoted(`spice:${m.name}`)}`;
	usable("insert", share.mayInsert());
	usable("eject", share.inserted && share.isUp() && !share.asked);
	usable("take", m !== null);
}

let last = {medium: null, served: 0, at: 0};

function showProgress() {
	const m = share.medium, now = performance.now();
	const rate = m && last.medium === m && now > last.at ?
		(m.served - last.served) * 1000 / (now - last.at) : 0;

	last = {medium: m, served: m?.served ?? 0, at: now};
	$("progress").max = m?.size ?? 1;
	$("progress").value = Math.min(m?.served ?? 0, m?.size ?? 1);
	$("rate").textContent = m ? `${bytes(m.served)} read, ${bytes(Math.round(rate))}/s${
		m.lastRead ? `, last at ${new Date(m.lastRead).toLocaleTimeString()}` : ""}` : "";
}

function show() {
	showConnection();
	showDrives();
	showMedium();
}

async function pick(file) {
	if (!file)
		return;
	try {
		await share.share(file);
		tell(`${file.name} is offered.`, false);
	} catch (e) {
		tell(`It cannot be shared: ${e.message}.`, true);
	}
	showProgress();
}

$("login").addEventListener("submit", (e) => {
	e.preventDefault();
	if (share.state !== "off")
		return;
	tell("Connecting.", false);
	share.start($("password").value);
	$("password").value = "";
	$("disconnect").focus();
});
$("disconnect").addEventListener("click", () =>
	share.stop("the person at the browser disconnected"));
$("drive").addEventListener("change", () => share.choose(Number($("drive").value)));
$("file").addEventListener("change", () => {
	pick($("file").files[0]);
	$("file").value = "";	// so that the same one can be picked again
});
$("insert").addEventListener("click", () => share.insert());
$("eject").addEventListener("click", () => share.eject());
$("take").addEventListener("click", () => {
	if (share.medium && (!share.inserted || confirm("The drive has it still: whoever uses it there will see errors. Take it away?")))
		share.takeAway();
});

for (const type of ["dragover", "dragleave", "drop"])
	document.addEventListener(type, (e) => {
		e.preventDefault();
		$("drop").classList.toggle("over", type === "dragover");
		if (type === "drop" && !$("file").disabled)
			pick(e.dataTransfer.files[0]);
	});

// A tab that is closed gives its medium back, as well as it can: the drive hears of it.
addEventListener("pagehide", () => {
	if (share.state !== "off")
		share.stop("the tab was closed");
});
addEventListener("beforeunload", (e) => {
	if (share.inserted)
		e.preventDefault();
});

setInterval(showProgress, TICK);
show();

// SPDX-License-Identifier: GPL-2.0-only
// The page's modules in node, without a browser: a Share whose sockets are unix ones.
//   node tab.mjs PAGE SOCKET    commands on standard input, a line of JSON for each event
//   node tab.mjs PAGE port FD   only a Session, on a port that is that descriptor
//   node tab.mjs PAGE xxh64     checksums of fixed bytes
import fs from "node:fs";
import net from "node:net";
import readline from "node:readline";
import {webcrypto} from "node:crypto";

globalThis.crypto ??= webcrypto;
const [page, where, fd] = process.argv.slice(2);
const load = (name) => import(`${page}/${name}`);
const say = (o) => process.stdout.write(JSON.stringify(o) + "\n");

// As a browser's File: slices, read when they are asked for.
class DiskFile {
	constructor(path, start = 0, end = fs.statSync(path).size) {
		this.path = path;
		this.name = path.split("/").pop();
		this.start = start;
		this.size = end - start;
	}

	slice(from, to) {
		const at = (x) => this.start + Math.min(Math.max(x, 0), this.size);

		return new DiskFile(this.path, at(from), at(to));
	}

	async arrayBuffer() {
		const f = await fs.promises.open(this.path);

		try {
			const {buffer, bytesRead} = await f.read(Buffer.alloc(this.size), 0, this.size,
				this.start);

			return buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + bytesRead);
		} finally {
			await f.close();
		}
	}
}

const sockets = new Set();

// As a browser's WebSocket, on a socket that carries bytes as they are.
class Socket {
	constructor(options) {
		this.s = net.connect(options);
		sockets.add(this.s);
		this.s.on("connect", () => this.onopen());
		this.s.on("data", (d) => this.onmessage({
			data: d.buffer.slice(d.byteOffset, d.byteOffset + d.byteLength)}));
		this.s.on("error", () => this.onerror());
		this.s.on("close", () => {
			sockets.delete(this.s);
			this.onclose({reason: ""});
		});
	}

	get bufferedAmount() {
		return this.s.writableLength;
	}

	send(bytes) {
		this.s.write(bytes);
	}

	close() {
		say({event: "closes", main: this.s === sockets.values().next().value});
		this.s.end();
	}
}

async function share() {
	const {Share} = await load("share.js");
	const s = new Share(() => new Socket({path: where}), {
		tell: (text, error) => say({event: error ? "error" : "told", text}),
		changed: () => say({
			event: "changed", state: s?.state, drives: [...s?.sessions.keys() ?? []],
			up: s?.isUp(), medium: s?.medium?.name ?? null, inserted: s?.inserted,
			locked: s?.locked, user: s?.user, asked: !!s?.asked, may: s?.mayInsert()}),
	});
	const verbs = {
		start: (password) => s.start(password), stop: () => s.stop("the tab was closed"),
		share: (path) => s.share(new DiskFile(path)), eject: () => s.eject(), insert: () => s.insert(),
		take: () => s.takeAway(), choose: (n) => s.choose(Number(n)),
		cut: () => sockets.forEach((x) => x.destroy()),
		served: () => say({event: "served", bytes: s.medium?.served ?? 0,
			memory: process.memoryUsage().rss}),
	};

	readline.createInterface({input: process.stdin}).on("line", async (line) => {
		const [verb, ...rest] = line.split(" ");

		try {
			await verbs[verb](rest.join(" "));
		} catch (e) {
			say({event: "error", text: e.message});
		}
	}).on("close", () => process.exit(0));
	say({event: "ready"});
}

async function port() {
	const {Session} = await load("session.js");
	const {Medium} = await load("media.js");
	const s = new net.Socket({fd: Number(fd)});
	const p = {drive: 0, opened: true, send: (b) => s.write(b), drained: async () => {}};
	const session = new Session(p, {onstate: () => say({event: "state", up: session.up}),
		onnotice: (what, m, text) => say({event: "notice", what, text}), secret() {},
		onsilent() {}});

	session.media = [await Medium.open(new DiskFile(process.argv[5]))];
	s.on("data", (d) => p.ondata(new Uint8Array(d)));
	s.on("close", () => process.exit(0));
	s.on("error", () => process.exit(0));
	p.onopen(false);
}

async function checksums() {
	const {xxh64} = await load("xxh64.js");

	for (const n of [0, 1, 3, 4, 7, 8, 15, 31, 32, 33, 63, 64, 100, 1000, 65535, 65536]) {
		const b = Uint8Array.from({length: n}, (_, i) => (i * 131 + 7) & 255);
		const [h, l] = xxh64(b, [0x89abcdef, 0x01234567]);

		say([n, h.toString(16).padStart(8, "0") + l.toString(16).padStart(8, "0")]);
	}
}

await (where === "xxh64" ? checksums() : where === "port" ? port() : share());

// SPDX-License-Identifier: GPL-2.0-only
// All channels of one Spice session: main, inputs (a listener waits for it), and the
// ports that are drives.
import {link, MAIN, INPUTS, PORT, LinkError} from "./spice.js";
import {view} from "./bytes.js";
import {Wire} from "./wire.js";

const MAIN_INIT = 103, CHANNELS_LIST = 104, ATTACH_CHANNELS = 104;
const DATA = 101, PORT_INIT = 201, PORT_EVENT = 202;
const OPENED = 0, CLOSED = 1;
const NAME = /^org\.spice-space\.spicebd\.(0|[1-9][0-9]{0,2})$/;
const PORTS_MAX = 64;
const LEAVE_MAX = 1000;		// ms

function within(ms, promise) {
	return Promise.race([promise, new Promise((resolve) => setTimeout(resolve, ms))]);
}

function portInit(body) {
	const v = view(body);
	const size = v.getUint32(0, true), at = v.getUint32(4, true);

	if (body.length < 9 || size > 64 || at > body.length - size)
		throw new Error("a port of the listener's has no name");
	const name = new TextDecoder().decode(body.subarray(at, at + size)).replace(/\0+$/, "");

	return {name, opened: body[8] !== 0};
}

// One drive's port. Its user sets onopen, onclose and ondata.
class Port {
	constructor(channel, drive) {
		this.channel = channel;
		this.drive = drive;
		this.opened = false;
	}

	send(bytes) {
		if (this.opened)
			this.channel.send(DATA, bytes);
	}

	drained() {
		return this.channel.wire.drained();
	}

	event(code) {
		if (code === OPENED) {
			const again = this.opened;

			this.opened = true;
			this.onopen(again);
		} else if (code === CLOSED && this.opened) {
			this.opened = false;
			this.onclose();
		}
	}
}

export class Connection {
	// connect(): a new socket; onport(port); onend(error)
	constructor(connect, passwords, hooks) {
		this.connect = connect;
		this.passwords = passwords;
		this.hooks = hooks;
		this.wires = new Set();
		this.known = new Set();		// channels that are linked or being linked
		this.ports = new Map();
		this.unknown = 0;		// ports of which no name has come yet
		this.over = false;
	}

	// The first password that is good: a session's secret, or what was typed.
	async linkWith(type, id) {
		let last;

		for (const password of this.passwords()) {
			const wire = new Wire(this.connect());

			this.wires.add(wire);
			try {
				return await link(wire, type, id, this.session ?? 0, password);
			} catch (e) {
				this.wires.delete(wire);
				last = e;
				if (!(e instanceof LinkError && e.password))
					break;
			}
		}
		throw last;
	}

	run(channel, on) {
		channel.run(on).catch((e) => this.end(e));
	}

	async start() {
		const main = await this.linkWith(MAIN, 0);

		this.run(main, (type, body) => {
			if (type === MAIN_INIT && body.length >= 4) {
				this.session = view(body).getUint32(0, true);
				main.send(ATTACH_CHANNELS);
			} else if (type === CHANNELS_LIST) {
				this.attach(body);
			}
		});
	}

	attach(body) {
		const count = body.length < 4 || this.over ? 0 : view(body).getUint32(0, true);

		for (let i = 0; i < count && 5 + 2 * i < body.length; i++) {
			const type = body[4 + 2 * i], id = body[5 + 2 * i], key = `${type}.${id}`;

			if ((type !== INPUTS && type !== PORT) || this.known.has(key) ||
			    this.known.size > PORTS_MAX)
				continue;
			this.known.add(key);
			this.unknown += type === PORT;
			this.attachOne(type, id, key).catch((e) => this.end(e));
		}
	}

	async attachOne(type, id, key) {
		const channel = await this.linkWith(type, id);

		if (type === INPUTS) {
			this.run(channel, () => {});
			return;
		}
		let port = null, named = false;

		// A port may be taken away, and come again, while the session lives.
		channel.run((t, body) => {
			if (t === PORT_INIT && !named) {
				named = true;
				this.unknown--;
				port = this.begin(channel, portInit(body));
			} else if (t === PORT_EVENT && port && body.length)
				port.event(body[0]);
			else if (t === DATA && port)
				port.ondata(body);
		}).catch((e) => {
			this.unknown -= !named;
			this.known.delete(key);
			this.wires.delete(channel.wire);
			channel.wire.close(e);
			if (port)
				this.lose(port);
		});
	}

	begin(channel, {name, opened}) {
		const match = NAME.exec(name);

		if (!match)
			return null;
		const port = new Port(channel, Number(match[1]));

		this.ports.set(port.drive, port);
		this.hooks.onport(port);
		if (opened)
			port.event(OPENED);
		return port;
	}

	lose(port) {
		port.event(CLOSED);
		if (this.ports.get(port.drive) === port)
			this.ports.delete(port.drive);
		this.hooks.onlost(port);
	}

	end(error) {
		if (this.over)
			return;
		this.over = true;
		for (const wire of this.wires)
			wire.close(error);
		this.hooks.onend(error);
	}

	// In good order: the session takes its ports along, so it ends after them, or what
	// was said there last could be lost. Where the tab goes, too, the browser sees to that.
	async leave(error) {
		const [main, ...others] = this.wires;

		this.over = true;
		for (const wire of others)
			wire.close(error);
		await within(LEAVE_MAX, Promise.all(others.map((wire) => wire.closed)));
		main?.close(error);
		await within(LEAVE_MAX, main?.closed);
	}
}

// SPDX-License-Identifier: GPL-2.0-only
// Channels of a Spice connection: how one is linked, and its messages, all with the
// short header (u16 type, u32 size).
import {concat, u32s, view} from "./bytes.js";
import {encrypt} from "./ticket.js";

export const MAIN = 1, INPUTS = 3, PORT = 10;

const MAGIC = [0x52, 0x45, 0x44, 0x51];		// "REDQ"
const LINK_BODY = 18, REPLY_MAX = 4096, KEY_LEN = 162;
const CAP_AUTH_SELECTION = 1 << 0, CAP_AUTH_SPICE = 1 << 1, CAP_MINI_HEADER = 1 << 3;
const AUTH_SPICE = 1;
const MESSAGE_MAX = 1 << 20;
const LINK_MS = 15000;
const SET_ACK = 3, PING = 4, DISCONNECTING = 6, LAST_OF_ALL = 100;
const C_ACK_SYNC = 1, C_ACK = 2, C_PONG = 3;

const WHY = {
	3: "the listener did not understand this page",
	4: "the listener speaks another version of Spice",
	5: "the listener wants TLS, which the web server in front of it does not speak",
	7: "another client is connected there, or the password is wrong",
	8: "its session is over",
	9: "it has no such channel",
};

export class LinkError extends Error {
	constructor(code, refused) {
		super(refused ? "the password is wrong, or was used already" :
			WHY[code] ?? `the listener refuses this page (${code})`);
		this.code = code;
		this.password = refused;	// it was the password
	}
}

function request(type, id, session) {
	const out = new Uint8Array(16 + LINK_BODY + 4);
	const v = view(out);

	out.set(MAGIC);
	[2, 2, LINK_BODY + 4, session].forEach((x, i) => v.setUint32(4 + 4 * i, x, true));
	out[20] = type;
	out[21] = id;
	[1, 0, LINK_BODY, CAP_AUTH_SELECTION | CAP_AUTH_SPICE | CAP_MINI_HEADER]
		.forEach((x, i) => v.setUint32(22 + 4 * i, x, true));
	return out;
}

async function reply(wire) {
	const head = await wire.read(16);
	const size = view(head).getUint32(12, true);

	if (!MAGIC.every((b, i) => head[i] === b) || view(head).getUint32(4, true) !== 2)
		throw new Error("what answers does not speak Spice");
	if (size < 4 + KEY_LEN + 12 || size > REPLY_MAX)
		throw new Error("the listener's answer is malformed");
	return wire.read(size);
}

function capabilities(body) {
	const v = view(body);
	const count = v.getUint32(4 + KEY_LEN, true), at = v.getUint32(4 + KEY_LEN + 8, true);

	return count && at <= body.length - 4 ? v.getUint32(at, true) : 0;
}

async function handshake(wire, type, id, session, password) {
	await wire.opened;
	wire.write(request(type, id, session));
	const body = await reply(wire);
	const code = view(body).getUint32(0, true), caps = capabilities(body);

	if (code)
		throw new LinkError(code, false);
	if (!(caps & CAP_MINI_HEADER))
		throw new Error("the listener knows no short headers");
	const ticket = await encrypt(body.subarray(4, 4 + KEY_LEN), password);

	wire.write(caps & CAP_AUTH_SELECTION ? concat([u32s(AUTH_SPICE), ticket]) : ticket);
	const result = view(await wire.read(4)).getUint32(0, true);

	if (result)
		throw new LinkError(result, true);
}

// Over a wire that is its own. session: 0 for a main channel.
export async function link(wire, type, id, session, password) {
	const timer = setTimeout(() => wire.close(new Error("the listener does not answer")),
		LINK_MS);

	try {
		await handshake(wire, type, id, session, password);
	} catch (e) {
		wire.close(e);
		throw e;
	} finally {
		clearTimeout(timer);
	}
	return new Channel(wire);
}

export class Channel {
	constructor(wire) {
		this.wire = wire;
		this.window = 0;
		this.toAck = 0;
	}

	send(type, body = new Uint8Array(0)) {
		const out = new Uint8Array(6 + body.length);

		view(out).setUint16(0, type, true);
		view(out).setUint32(2, body.length, true);
		out.set(body, 6);
		this.wire.write(out);
	}

	common(type, body) {
		if (type === SET_ACK && body.length >= 8) {
			this.window = this.toAck = view(body).getUint32(4, true);
			this.send(C_ACK_SYNC, body.slice(0, 4));
		} else if (type === PING && body.length >= 12) {
			this.send(C_PONG, body.slice(0, 12));
		} else if (type === DISCONNECTING) {
			throw new Error("the listener ended the session");
		}
	}

	// Gives every message of the channel's own kind to on(type, body), until its end,
	// which is an exception.
	async run(on) {
		for (;;) {
			const head = view(await this.wire.read(6));
			const type = head.getUint16(0, true), size = head.getUint32(2, true);

			if (size > MESSAGE_MAX)
				throw new Error("a message of the listener's is too long");
			const body = await this.wire.read(size);

			if (type > LAST_OF_ALL)
				on(type, body);
			else
				this.common(type, body);
			if (this.window && !--this.toAck) {
				this.send(C_ACK);
				this.toAck = this.window;
			}
		}
	}
}

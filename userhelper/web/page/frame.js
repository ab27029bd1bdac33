// SPDX-License-Identifier: GPL-2.0-only
// The frame layer, a share's end: Documentation/frame-protocol.rst.
import {u32s, view} from "./bytes.js";
import {xxh64} from "./xxh64.js";

export const HELLO = 1, RESYNC = 2, OFFER = 3, WITHDRAW = 4, OFFERS_END = 5, OPEN = 6,
	OPENED = 7, DATA = 8, CREDIT = 9, CLOSE = 10, NOTICE = 11, EJECT_REQUEST = 12,
	PING = 13, PONG = 14, MOVE = 15, BYE = 16;
export const OPTIONAL = 0x8000;

export const HEADER_LEN = 24, FRAME_MAX = 65536, CHECK_LEN = 8;
const PAYLOAD_MAX = FRAME_MAX - HEADER_LEN;
export const CREDIT_MAX = 1 << 24, STREAMS_MAX = 16, NAME_MAX = 255, TEXT_MAX = 255;
export const CAP_CHECKS = 1, CAP_ANSWERS = 2, CAP_INSERT = 8;
export const OK = 0, ERR_PROTOCOL = 1, ERR_VERSION = 2, ERR_NO_SUCH_OFFER = 3, ERR_BUSY = 4,
	ERR_SERVER = 5, ERR_LIMIT = 6, ERR_TIMEOUT = 7, ERR_SHUTDOWN = 8;
export const INSERTED = 1, EJECTED = 2, LOCKED = 3, UNLOCKED = 4, BUSY = 5;
export const EJECT_FORCE = 1, EJECT_REPLACE = 2, EJECT_INSERT = 4;
export const READ_ONLY = 1, DURABLE = 2, MULTI = 4;

const MAGIC = 0x46444253;
const HELLO_LEN = 96, OFFER_LEN = 64;
const CHECKED = 1;
const ROLE_LINK = 1, ROLE_SHARE = 2, VERSION = 1;

const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/;

// ---- payloads

export function parseHello(p) {
	if (p.length !== HELLO_LEN)
		return null;
	const v = view(p);
	const h = {
		version: v.getUint16(0, true), role: v.getUint16(2, true),
		capabilities: v.getUint32(4, true), epoch: v.getUint32(8, true),
		frameMax: v.getUint32(12, true), pingInterval: v.getUint32(16, true),
		pingTimeout: v.getUint32(20, true), secret: p.slice(24, 56),
	};

	return h.version && h.epoch && (h.role === ROLE_LINK || h.role === ROLE_SHARE) &&
		h.frameMax >= 4096 && h.frameMax <= FRAME_MAX && h.pingInterval >= 100 &&
		h.pingInterval <= 3600000 && h.pingTimeout >= h.pingInterval &&
		h.pingTimeout <= 3600000 ? h : null;
}

export function isLink(hello) {
	return hello.role === ROLE_LINK;
}

export function speaks(hello) {
	return hello.version === VERSION;
}

export function packHello(epoch, instance, interval, timeout) {
	const out = new Uint8Array(HELLO_LEN), v = view(out);

	v.setUint16(0, VERSION, true);
	v.setUint16(2, ROLE_SHARE, true);
	[CAP_CHECKS | CAP_ANSWERS, epoch, FRAME_MAX, interval, timeout]
		.forEach((x, i) => v.setUint32(4 + 4 * i, x, true));
	out.set(instance, 72);
	return out;
}

export function packOffer(o) {
	const name = new TextEncoder().encode(o.name);
	const out = new Uint8Array(OFFER_LEN + name.length), v = view(out);

	v.setUint32(0, o.id, true);
	v.setUint32(4, o.flags, true);
	v.setBigUint64(8, BigInt(o.size), true);
	out.set(o.mediumId, 16);
	out.set(o.incarnation, 32);
	v.setUint16(48, o.kind, true);
	v.setUint16(50, name.length, true);
	out.set(name, OFFER_LEN);
	return out;
}

// n numbers and nothing else, or null
export function parseU32s(p, n) {
	if (p.length !== 4 * n)
		return null;
	return Array.from({length: n}, (_, i) => view(p).getUint32(4 * i, true));
}

// n numbers and a text, or null
export function parseText(p, n) {
	if (p.length < 4 * n || p.length > 4 * n + TEXT_MAX)
		return null;
	try {
		const text = new TextDecoder("utf-8", {fatal: true, ignoreBOM: true})
			.decode(p.subarray(4 * n));

		return CONTROLS.test(text) ? null : [...parseU32s(p.subarray(0, 4 * n), n), text];
	} catch {
		return null;
	}
}

export function packCode(code, text) {
	const bytes = new TextEncoder().encode(text).subarray(0, TEXT_MAX);
	const out = new Uint8Array(4 + bytes.length);

	out.set(u32s(code));
	out.set(bytes, 4);
	return out;
}

// A file's name as an offer's: what is not allowed there becomes "_".
export function offerName(name) {
	const encoder = new TextEncoder();
	let clean = Array.from(name.toWellFormed?.() ?? name,
		(c) => c === "/" || CONTROLS.test(c) ? "_" : c).join("");

	while (encoder.encode(clean).length > NAME_MAX)
		clean = Array.from(clean).slice(0, -1).join("");
	return /^\.{0,2}$/.test(clean) ? "medium" : clean;
}

// ---- sending

// [upper, lower] half of the last 8 bytes of the secret
function seedOf(secret) {
	return [view(secret).getUint32(28, true), view(secret).getUint32(24, true)];
}

export class Sender {
	constructor(epoch = 0, checked = false, secret = null) {
		this.epoch = epoch;
		this.seq = 0;
		this.checked = checked;
		this.seed = checked ? seedOf(secret) : null;
	}

	// Bytes of a payload in a frame of this length
	room(frameMax) {
		return frameMax - HEADER_LEN - (this.checked ? CHECK_LEN : 0);
	}

	frame(type, stream, payload) {
		const resync = type === RESYNC;
		const checked = this.checked && !resync && type !== HELLO;
		const length = payload.length + (checked ? CHECK_LEN : 0);
		const out = new Uint8Array(HEADER_LEN + length), v = view(out);

		v.setUint32(0, MAGIC, true);
		v.setUint16(4, type, true);
		v.setUint16(6, checked ? CHECKED : 0, true);
		[stream, length, resync ? 0 : this.epoch, resync ? 0 : this.seq]
			.forEach((x, i) => v.setUint32(8 + 4 * i, x, true));
		out.set(payload, HEADER_LEN);
		if (!resync)
			this.seq = (this.seq + 1) >>> 0;
		if (checked) {
			const at = HEADER_LEN + payload.length;
			const [h, l] = xxh64(out.subarray(0, at), this.seed);

			v.setUint32(at, l, true);
			v.setUint32(at + 4, h, true);
		}
		return out;
	}
}

// ---- receiving

const DELIVER = 0, NEW_EPOCH = 1, DROP = 2, LOSE = 3;

export class Receiver {
	constructor() {
		// A frame at most, and what came behind it in one piece.
		this.buf = new Uint8Array(4 * FRAME_MAX);
		this.reset();
	}

	reset() {
		this.start = this.end = 0;
		this.epoch = this.seq = 0;
		this.hunting = true;
		this.checked = false;
	}

	check(secret) {
		this.checked = true;
		this.seed = seedOf(secret);
	}

	// A hello that was no such: go on hunting, for one of another epoch than was lost.
	forged(lostEpoch) {
		this.epoch = lostEpoch;
		this.hunting = true;
	}

	header() {
		const v = new DataView(this.buf.buffer, this.start, HEADER_LEN);

		return {
			magic: v.getUint32(0, true), type: v.getUint16(4, true),
			flags: v.getUint16(6, true), stream: v.getUint32(8, true),
			length: v.getUint32(12, true), epoch: v.getUint32(16, true),
			seq: v.getUint32(20, true),
		};
	}

	judge(h) {
		if (h.magic !== MAGIC || h.length > PAYLOAD_MAX)
			return LOSE;
		if (h.type === HELLO && h.length === HELLO_LEN && !h.stream && !h.seq && h.epoch &&
		    h.epoch !== this.epoch)
			return NEW_EPOCH;
		if (this.hunting)
			return this.epoch && h.epoch === this.epoch ? DROP : LOSE;
		if (h.epoch !== this.epoch)
			return DROP;
		return h.seq === this.seq ? DELIVER : LOSE;
	}

	// What the header says, the bytes may deny.
	whole(h, verdict, frame) {
		const payload = frame.subarray(HEADER_LEN);

		if (verdict === NEW_EPOCH)
			return parseHello(payload)?.epoch === h.epoch;
		if (verdict !== DELIVER)
			return true;
		if (!(h.flags & CHECKED))
			return !this.checked;
		if (!this.checked || h.length < CHECK_LEN)
			return false;
		const at = frame.length - CHECK_LEN;
		const [up, low] = xxh64(frame.subarray(0, at), this.seed);

		return view(frame).getUint32(at, true) === low &&
			view(frame).getUint32(at + 4, true) === up;
	}

	// Returns whether the step was lost just now.
	lose() {
		if (!this.hunting) {
			this.hunting = true;
			return true;
		}
		// Look one byte further on, or where the next magic may begin.
		const next = this.buf.subarray(0, this.end).indexOf(0x53, this.start + 1);

		this.start = next < 0 ? this.end : next;
		return false;
	}

	append(bytes) {
		if (this.start) {
			this.buf.copyWithin(0, this.start, this.end);
			this.end -= this.start;
			this.start = 0;
		}
		this.buf.set(bytes, this.end);
		this.end += bytes.length;
	}

	// onframe(header, payload), the payload being the callee's; onlost()
	feed(bytes, onframe, onlost) {
		for (let at = 0; at < bytes.length; at += FRAME_MAX) {
			this.append(bytes.subarray(at, at + FRAME_MAX));
			this.parse(onframe, onlost);
		}
	}

	parse(onframe, onlost) {
		while (this.end - this.start >= HEADER_LEN) {
			const h = this.header(), verdict = this.judge(h);
			const n = HEADER_LEN + h.length;

			if (verdict !== LOSE && this.end - this.start < n)
				return;
			const frame = this.buf.subarray(this.start, this.start + n);

			if (verdict === LOSE || !this.whole(h, verdict, frame)) {
				if (this.lose())
					onlost();
				continue;
			}
			this.start += n;
			if (verdict === DROP)
				continue;
			this.deliver(h, verdict, frame, onframe);
		}
	}

	deliver(h, verdict, frame, onframe) {
		let payload = frame.slice(HEADER_LEN);

		if (verdict === NEW_EPOCH) {
			this.epoch = h.epoch;
			this.seq = 1;
			this.hunting = this.checked = false;
		} else {
			this.seq = (this.seq + 1) >>> 0;
			if (this.checked)
				payload = payload.subarray(0, payload.length - CHECK_LEN);
		}
		onframe(h, payload);
	}
}

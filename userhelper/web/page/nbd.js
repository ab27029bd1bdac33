// SPDX-License-Identifier: GPL-2.0-only
// An NBD server for one connection, read-only: fixed newstyle, structured replies if the
// client wants them. What comes is checked before it is used.
import {concat, Queue, view} from "./bytes.js";

const OPTION_MAX = 4096;	// bytes of data with an option
const OPTIONS_MAX = 32;		// before the client has chosen
const REQUEST_MAX = 32 << 20;
const PIECE = 256 << 10;
const AHEAD = 8;		// pieces that are being read before their turn

const OPTS_MAGIC = 0x49484156454F5054n, REPLY_MAGIC = 0x3e889045565a9n;
const REQUEST_MAGIC = 0x25609513, SIMPLE_MAGIC = 0x67446698, CHUNK_MAGIC = 0x668e33ef;
const FIXED_NEWSTYLE = 1, NO_ZEROES = 2;
const O_EXPORT_NAME = 1, O_ABORT = 2, O_LIST = 3, O_INFO = 6, O_GO = 7, O_STRUCTURED = 8;
const R_ACK = 1, R_SERVER = 2, R_INFO = 3;
const R_ERR_UNSUP = 0x80000001, R_ERR_INVALID = 0x80000003, R_ERR_TOO_BIG = 0x80000009;
const I_EXPORT = 0, I_BLOCK_SIZE = 3;
const F_HAS_FLAGS = 1, F_READ_ONLY = 2, F_MULTI_CONN = 256;
const C_READ = 0, C_WRITE = 1, C_DISC = 2, C_FLUSH = 3, C_TRIM = 4, C_ZEROES = 6;
const DONE = 1, T_NONE = 0, T_OFFSET_DATA = 1, T_ERROR = 0x8001;
const EPERM = 1, EIO = 5, EINVAL = 22;

class Bad extends Error {}

function bigEndian(size, fill) {
	const out = new Uint8Array(size);

	fill(view(out));
	return out;
}

// output(bytes): resolved when they may be forgotten. consumed(n): bytes of input that
// were taken. The stream is over when run() is.
export class NbdServer {
	constructor(medium, output, consumed) {
		this.medium = medium;
		this.output = output;
		this.consumed = consumed;
		this.queue = new Queue(1 << 20);
		this.waiting = null;
		this.ended = false;
		this.structured = false;
		this.replies = [];	// pieces, in the order in which they go
		this.sending = null;	// settled when the first of them has gone
		this.draining = null;
	}

	input(bytes) {
		this.queue.push(bytes);
		this.wake();
	}

	end() {
		this.ended = true;
		this.wake();
	}

	wake() {
		const w = this.waiting;

		if (!w || (this.queue.length < w.n && !this.ended))
			return;
		this.waiting = null;
		if (this.ended) {
			w.reject(new Bad("closed"));
			return;
		}
		this.consumed(w.n);
		w.resolve(view(this.queue.take(w.n)));
	}

	need(n) {
		return new Promise((resolve, reject) => {
			this.waiting = {n, resolve, reject};
			this.wake();
		});
	}

	async skip(n) {
		for (; n > 0; n -= 4096)
			await this.need(Math.min(n, 4096));
	}

	// Until the connection is over. Whatever was being read has ended then, too.
	async run() {
		try {
			if (await this.negotiate())
				await this.transmit();
		} catch (e) {
			if (!(e instanceof Bad))
				throw e;
		} finally {
			this.ended = true;
			await this.draining;
		}
	}

	// ---- negotiation

	flags() {
		return F_HAS_FLAGS | F_READ_ONLY | F_MULTI_CONN;
	}

	optionReply(option, type, data = new Uint8Array(0)) {
		return this.output(concat([bigEndian(20, (v) => {
			v.setBigUint64(0, REPLY_MAGIC);
			v.setUint32(8, option);
			v.setUint32(12, type);
			v.setUint32(16, data.length);
		}), data]));
	}

	async negotiate() {
		await this.output(bigEndian(18, (v) => {
			v.setBigUint64(0, 0x4e42444d41474943n);
			v.setBigUint64(8, OPTS_MAGIC);
			v.setUint16(16, FIXED_NEWSTYLE | NO_ZEROES);
		}));
		const clientFlags = (await this.need(4)).getUint32(0);

		if (clientFlags & ~(FIXED_NEWSTYLE | NO_ZEROES))
			throw new Bad("unknown flags");
		for (let i = 0; i < OPTIONS_MAX; i++) {
			const head = await this.need(16);
			const option = head.getUint32(8), length = head.getUint32(12);

			if (head.getBigUint64(0) !== OPTS_MAGIC || length > (1 << 20))
				throw new Bad("no option");
			if (length > OPTION_MAX) {
				await this.skip(length);
				await this.optionReply(option, R_ERR_TOO_BIG);
				continue;
			}
			const data = length ? await this.need(length) : view(new Uint8Array(0));
			const done = await this.option(option, data, !(clientFlags & NO_ZEROES));

			if (done !== null)
				return done;
		}
		throw new Bad("too many options");
	}

	// true: transmission begins; false: it is over; null: the next option
	async option(option, data, zeroes) {
		switch (option) {
		case O_EXPORT_NAME:
			await this.output(bigEndian(zeroes ? 134 : 10, (v) => {
				v.setBigUint64(0, BigInt(this.medium.size));
				v.setUint16(8, this.flags());
			}));
			return true;
		case O_ABORT:
			await this.optionReply(option, R_ACK);
			return false;
		case O_LIST:
			if (data.byteLength) {
				await this.optionReply(option, R_ERR_INVALID);
				return null;
			}
			await this.optionReply(option, R_SERVER, new Uint8Array(4));
			await this.optionReply(option, R_ACK);
			return null;
		case O_STRUCTURED:
			this.structured ||= !data.byteLength;
			await this.optionReply(option, data.byteLength ? R_ERR_INVALID : R_ACK);
			return null;
		case O_INFO:
		case O_GO:
			return this.info(option, data);
		default:
			await this.optionReply(option, R_ERR_UNSUP);
			return null;
		}
	}

	async info(option, data) {
		const name = data.byteLength < 6 ? Infinity : data.getUint32(0);
		const count = name + 6 > data.byteLength ? Infinity : data.getUint16(4 + name);

		if (data.byteLength !== 6 + name + 2 * count) {
			await this.optionReply(option, R_ERR_INVALID);
			return null;
		}
		await this.optionReply(option, R_INFO, bigEndian(12, (v) => {
			v.setUint16(0, I_EXPORT);
			v.setBigUint64(2, BigInt(this.medium.size));
			v.setUint16(10, this.flags());
		}));
		await this.optionReply(option, R_INFO, bigEndian(14, (v) => {
			v.setUint16(0, I_BLOCK_SIZE);
			[1, 4096, REQUEST_MAX].forEach((x, i) => v.setUint32(2 + 4 * i, x));
		}));
		await this.optionReply(option, R_ACK);
		return option === O_GO ? true : null;
	}

	// ---- transmission

	async transmit() {
		for (;;) {
			const r = await this.need(28);
			const flags = r.getUint16(4), type = r.getUint16(6), cookie = r.getBigUint64(8);
			const offset = r.getBigUint64(16), length = r.getUint32(24);

			if (r.getUint32(0) !== REQUEST_MAGIC)
				throw new Bad("no request");
			if (type === C_DISC)
				return;
			if (type === C_WRITE && length > REQUEST_MAX)
				throw new Bad("too long a write");
			if (type === C_WRITE)
				await this.skip(length);
			while (this.replies.length >= AHEAD && !this.ended)
				await this.sending;
			await this.request(type, flags, cookie, offset, length);
		}
	}

	async request(type, flags, cookie, offset, length) {
		const inside = length && offset + BigInt(length) <= BigInt(this.medium.size);

		if (type === C_READ && !flags && inside && length <= REQUEST_MAX)
			await this.read(cookie, Number(offset), length);
		else if (type === C_FLUSH && !flags)
			this.queueReply(cookie, 0);
		else
			this.queueReply(cookie, type === C_WRITE || type === C_TRIM ||
				type === C_ZEROES ? EPERM : EINVAL);
	}

	// A reply without data
	queueReply(cookie, error) {
		const head = this.structured && error ? this.chunk(cookie, DONE, T_ERROR, 6) :
			this.structured ? this.chunk(cookie, DONE, T_NONE, 0) :
				this.simple(cookie, error);
		const body = this.structured && error ? bigEndian(6, (v) => v.setUint32(0, error)) :
			new Uint8Array(0);

		this.push({head, bytes: Promise.resolve(body)});
	}

	simple(cookie, error) {
		return bigEndian(16, (v) => {
			v.setUint32(0, SIMPLE_MAGIC);
			v.setUint32(4, error);
			v.setBigUint64(8, cookie);
		});
	}

	chunk(cookie, flags, type, length) {
		return bigEndian(20, (v) => {
			v.setUint32(0, CHUNK_MAGIC);
			v.setUint16(4, flags);
			v.setUint16(6, type);
			v.setBigUint64(8, cookie);
			v.setUint32(16, length);
		});
	}

	async read(cookie, offset, length) {
		const end = offset + length;
		const request = {cookie, failed: false};

		for (let at = offset; at < end && !request.failed; at += PIECE) {
			while (this.replies.length >= AHEAD && !this.ended)
				await this.sending;
			if (this.ended)
				return;
			const n = Math.min(PIECE, end - at);

			this.push({
				request, first: at === offset, last: at + n === end, offset: at, length: n,
				head: null, bytes: this.medium.read(at, n),
			});
		}
	}

	push(piece) {
		piece.bytes.catch(() => {});	// it is heard of when its turn comes
		this.replies.push(piece);
		if (!this.draining)
			this.draining = this.drain();
	}

	// Sends what is in the queue, in its order, and says so after each piece.
	async drain() {
		while (this.replies.length) {
			let done;

			this.sending = new Promise((resolve) => (done = resolve));
			try {
				await this.sendPiece(this.replies[0]);
			} catch {
				this.end();	// nobody can be told any more
			}
			this.replies.shift();
			done();
		}
		this.draining = null;
	}

	async sendPiece(p) {
		let bytes;

		if (this.ended || p.request?.failed)
			return;
		try {
			bytes = await p.bytes;
		} catch {
			await this.sendFailure(p);
			return;
		}
		if (p.head)
			await this.output(concat([p.head, bytes]));
		else if (this.structured)
			await this.sendChunk(p, bytes);
		else
			await this.output(p.first ? concat([this.simple(p.request.cookie, 0), bytes]) : bytes);
	}

	sendChunk(p, bytes) {
		const at = bigEndian(8, (v) => v.setBigUint64(0, BigInt(p.offset)));

		return this.output(concat([this.chunk(p.request.cookie, p.last ? DONE : 0,
			T_OFFSET_DATA, 8 + bytes.length), at, bytes]));
	}

	async sendFailure(p) {
		p.request.failed = true;
		if (this.structured)
			await this.output(concat([this.chunk(p.request.cookie, DONE, T_ERROR, 6),
				bigEndian(6, (v) => v.setUint32(0, EIO))]));
		else if (p.first)
			await this.output(this.simple(p.request.cookie, EIO));
		else
			this.end();	// its reply has said already that there is data
	}
}

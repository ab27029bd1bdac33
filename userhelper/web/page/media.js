// SPDX-License-Identifier: GPL-2.0-only
// A file that a person picked, as a medium. Its identity is this object's: the same one
// across connections, while the tab lives.
import {random} from "./bytes.js";
import {offerName} from "./frame.js";

const CHUNK = 512 << 10;	// of the read-ahead
const CHUNKS = 16;		// kept
const KIND_CDROM = 1, KIND_DISK = 2;
const DESCRIPTORS = 32768, DESCRIPTOR = 2048;

let lastId = 0;

async function bytesOf(blob) {
	return new Uint8Array(await blob.arrayBuffer());
}

async function kindOf(file) {
	for (let i = 0; i < 4; i++) {
		const at = DESCRIPTORS + i * DESCRIPTOR;
		const id = new TextDecoder("latin1").decode(await bytesOf(file.slice(at + 1, at + 6)));

		if (["CD001", "BEA01", "NSR02", "NSR03"].includes(id))
			return KIND_CDROM;
	}
	return KIND_DISK;
}

export class Medium {
	// A Blob, and what it is called; fails if it cannot be read
	static async open(file) {
		if (!file.size)
			throw new Error(`${file.name} is empty`);
		// A folder has a size where it is dropped, and an end, but nothing can be read.
		await bytesOf(file.slice(0, 1)).catch(() => {
			throw new Error(`${file.name} cannot be read, or is a folder`);
		});
		return new Medium(file, await kindOf(file));
	}

	constructor(file, kind) {
		this.file = file;
		this.size = file.size;
		this.name = offerName(file.name);
		this.kind = kind;
		this.id = ++lastId;
		this.mediumId = random(16);
		this.incarnation = random(16);
		this.served = 0;	// bytes
		this.lastRead = 0;	// when; 0: never
		this.chunks = new Map();	// by number; the oldest first
		this.seen = new Set();
	}

	chunk(n) {
		let c = this.chunks.get(n);

		if (!c) {
			c = bytesOf(this.file.slice(n * CHUNK, (n + 1) * CHUNK));
			// Whoever awaits it hears of it; it is not to be kept.
			c.catch(() => this.chunks.delete(n));
		}
		this.chunks.delete(n);
		this.chunks.set(n, c);
		for (const old of this.chunks.keys()) {
			if (this.chunks.size <= CHUNKS)
				break;
			this.chunks.delete(old);
		}
		return c;
	}

	// Whether a read there is likely to be followed by others of the same chunk.
	likely(n) {
		const before = this.seen.has(n) || this.chunks.has(n) || this.chunks.has(n - 1) ||
			this.seen.has(n - 1);

		this.seen.add(n);
		if (this.seen.size > 4 * CHUNKS)
			this.seen.delete(this.seen.values().next().value);
		return before;
	}

	// Within the file; rejected if it cannot be read, as when it was changed.
	async read(offset, length) {
		const n = Math.floor(offset / CHUNK), end = offset + length;
		let bytes;

		if (end <= (n + 1) * CHUNK && this.likely(n)) {
			const chunk = this.chunk(n);

			// The next one, when the end of this one is near.
			if (end > (n + 0.5) * CHUNK && (n + 1) * CHUNK < this.size)
				this.chunk(n + 1);
			bytes = (await chunk).subarray(offset - n * CHUNK, end - n * CHUNK);
		} else {
			bytes = await bytesOf(this.file.slice(offset, end));
		}
		if (bytes.length !== length)
			throw new Error("the file has become shorter");
		this.served += length;
		this.lastRead = Date.now();
		return bytes;
	}
}

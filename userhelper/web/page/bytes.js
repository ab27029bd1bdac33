// SPDX-License-Identifier: GPL-2.0-only
// Bytes, little-endian unless it is said.

export function concat(parts) {
	const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
	let at = 0;

	for (const p of parts) {
		out.set(p, at);
		at += p.length;
	}
	return out;
}

export function view(bytes) {
	return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function u32s(...values) {
	const out = new Uint8Array(4 * values.length);
	const v = view(out);

	values.forEach((x, i) => v.setUint32(4 * i, x, true));
	return out;
}

export function hex(bytes) {
	return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

export function equal(a, b) {
	return a.length === b.length && a.every((x, i) => x === b[i]);
}

export function random(n) {
	return crypto.getRandomValues(new Uint8Array(n));
}

// What comes in pieces, to be taken in others. Never more than max is kept.
export class Queue {
	constructor(max) {
		this.max = max;
		this.parts = [];
		this.length = 0;
	}

	push(bytes) {
		if (this.length + bytes.length > this.max)
			throw new Error("more came than can be kept");
		this.parts.push(bytes);
		this.length += bytes.length;
	}

	// n bytes, which have to be there; often without a copy.
	take(n) {
		const parts = [];

		this.length -= n;
		while (n) {
			const p = this.parts[0];

			if (p.length > n) {
				parts.push(p.subarray(0, n));
				this.parts[0] = p.subarray(n);
				break;
			}
			parts.push(this.parts.shift());
			n -= p.length;
		}
		return parts.length === 1 ? parts[0] : concat(parts);
	}
}

// SPDX-License-Identifier: GPL-2.0-only
// XXH64 without 64-bit integers, which are slow here: a number is its upper and its
// lower half. A frame's check is made of it, where a port may lose bytes.
import {view} from "./bytes.js";

const P1 = [0x9E3779B1, 0x85EBCA87], P2 = [0xC2B2AE3D, 0x27D4EB4F],
	P3 = [0x165667B1, 0x9E3779F9], P4 = [0x85EBCA77, 0xC2B2AE63],
	P5 = [0x27D4EB2F, 0x165667C5];

// Results of the functions below, which are called millions of times.
let hi = 0, lo = 0;

function mul(ah, al, bh, bl) {
	const a0 = al & 0xffff, a1 = al >>> 16, b0 = bl & 0xffff, b1 = bl >>> 16;
	const low = a0 * b0;
	const mid = a1 * b0 + (low >>> 16);		// below 2^33: exact
	const mid2 = a0 * b1 + (mid % 65536);

	hi = (a1 * b1 + Math.floor(mid / 65536) + Math.floor(mid2 / 65536) +
		Math.imul(ah, bl) + Math.imul(al, bh)) | 0;
	lo = ((mid2 % 65536) * 65536 + (low & 0xffff)) | 0;
}

function add(ah, al, bh, bl) {
	const sum = (al >>> 0) + (bl >>> 0);

	hi = (ah + bh + (sum > 0xffffffff ? 1 : 0)) | 0;
	lo = sum | 0;
}

function rotl(h, l, n) {
	if (n >= 32) {
		[h, l] = [l, h];
		n -= 32;
	}
	hi = n ? (h << n) | (l >>> (32 - n)) : h;
	lo = n ? (l << n) | (h >>> (32 - n)) : l;
}

function round(h, l, ih, il) {
	mul(ih, il, P2[0], P2[1]);
	add(h, l, hi, lo);
	rotl(hi, lo, 31);
	mul(hi, lo, P1[0], P1[1]);
}

function merge(h, l, vh, vl) {
	round(0, 0, vh, vl);
	mul(h ^ hi, l ^ lo, P1[0], P1[1]);
	add(hi, lo, P4[0], P4[1]);
}

function stripes(v, seed) {
	const s = [];
	const n = v.byteLength - v.byteLength % 32;

	add(seed[0], seed[1], P1[0], P1[1]);
	add(hi, lo, P2[0], P2[1]);
	s[0] = hi;
	s[1] = lo;
	add(seed[0], seed[1], P2[0], P2[1]);
	s[2] = hi;
	s[3] = lo;
	s[4] = seed[0];
	s[5] = seed[1];
	add(seed[0], seed[1], ~P1[0], ~P1[1]);
	add(hi, lo, 0, 1);
	s[6] = hi;
	s[7] = lo;
	for (let at = 0; at < n; at += 8) {
		const i = at / 8 % 4 * 2;

		round(s[i], s[i + 1], v.getInt32(at + 4, true), v.getInt32(at, true));
		s[i] = hi;
		s[i + 1] = lo;
	}
	let h = 0, l = 0;

	[1, 7, 12, 18].forEach((r, i) => {
		rotl(s[2 * i], s[2 * i + 1], r);
		add(h, l, hi, lo);
		h = hi;
		l = lo;
	});
	for (let i = 0; i < 8; i += 2) {
		merge(h, l, s[i], s[i + 1]);
		h = hi;
		l = lo;
	}
}

// The rest, less than a stripe.
function tail(v, at) {
	let h = hi, l = lo;

	for (; at + 8 <= v.byteLength; at += 8) {
		round(0, 0, v.getInt32(at + 4, true), v.getInt32(at, true));
		rotl(h ^ hi, l ^ lo, 27);
		mul(hi, lo, P1[0], P1[1]);
		add(hi, lo, P4[0], P4[1]);
		h = hi;
		l = lo;
	}
	if (at + 4 <= v.byteLength) {
		mul(0, v.getInt32(at, true), P1[0], P1[1]);
		rotl(h ^ hi, l ^ lo, 23);
		mul(hi, lo, P2[0], P2[1]);
		add(hi, lo, P3[0], P3[1]);
		h = hi;
		l = lo;
		at += 4;
	}
	for (; at < v.byteLength; at++) {
		mul(0, v.getUint8(at), P5[0], P5[1]);
		rotl(h ^ hi, l ^ lo, 11);
		mul(hi, lo, P1[0], P1[1]);
		h = hi;
		l = lo;
	}
	hi = h;
	lo = l;
}

function avalanche() {
	// Shifts to the right by 33, 29 and 32.
	mul(hi, lo ^ (hi >>> 1), P2[0], P2[1]);
	mul(hi ^ (hi >>> 29), lo ^ ((lo >>> 29) | (hi << 3)), P3[0], P3[1]);
	lo ^= hi;
}

// seed: [upper, lower]; returns the same
export function xxh64(bytes, seed) {
	const v = view(bytes);

	if (bytes.length >= 32)
		stripes(v, seed);
	else
		add(seed[0], seed[1], P5[0], P5[1]);
	add(hi, lo, Math.floor(bytes.length / 4294967296), bytes.length);
	tail(v, bytes.length - bytes.length % 32);
	avalanche();
	return [hi >>> 0, lo >>> 0];
}

// SPDX-License-Identifier: GPL-2.0-only
// One stream of a session: an NBD connection, with credit for either way.
import * as frame from "./frame.js";
import {u32s} from "./bytes.js";
import {NbdServer} from "./nbd.js";

const WINDOW = 64 << 10;	// that we give; requests are small

export class Stream {
	// session: its send(), drained(), frameMax() and streamOver(stream)
	constructor(session, id, medium, credit) {
		this.session = session;
		this.id = id;
		this.medium = medium;
		this.txCredit = credit;
		this.rxCredit = WINDOW;
		this.taken = 0;		// not given back yet
		this.closeSent = this.closeHeard = false;
		this.wait = null;
		this.server = new NbdServer(medium, (b) => this.output(b), (n) => this.consumed(n));
		session.send(frame.OPENED, id, u32s(WINDOW));
		this.done = this.server.run().then(() => this.close(frame.OK),
			() => this.close(frame.ERR_SERVER));
	}

	// ---- what the link says; false: it may not

	data(bytes) {
		if (!bytes.length || bytes.length > this.rxCredit || this.closeHeard)
			return false;
		this.rxCredit -= bytes.length;
		if (!this.closeSent)
			this.server.input(bytes);
		return true;
	}

	credit(n) {
		if (!n || this.closeHeard || n > frame.CREDIT_MAX - this.txCredit)
			return false;
		this.txCredit += n;
		this.wake();
		return true;
	}

	closed() {
		if (this.closeHeard)
			return false;
		this.closeHeard = true;
		this.abort();
		this.close(frame.OK);
		return true;
	}

	// ---- our end

	abort() {
		this.server.end();
		this.wake();
	}

	close(code, text = "") {
		if (!this.closeSent) {
			this.closeSent = true;
			this.session.send(frame.CLOSE, this.id, frame.packCode(code, text));
		}
		this.abort();
		if (this.closeHeard)
			this.session.streamOver(this);
	}

	consumed(n) {
		this.taken += n;
		if (this.taken < WINDOW / 4 || this.closeSent)
			return;
		this.rxCredit += this.taken;
		this.session.send(frame.CREDIT, this.id, u32s(this.taken));
		this.taken = 0;
	}

	wake() {
		this.wait?.();
		this.wait = null;
	}

	async output(bytes) {
		for (let at = 0; at < bytes.length;) {
			while (!this.txCredit && !this.server.ended)
				await new Promise((resolve) => (this.wait = resolve));
			if (this.server.ended)
				throw new Error("closed");
			const n = Math.min(bytes.length - at, this.txCredit, this.session.room());

			this.txCredit -= n;
			this.session.send(frame.DATA, this.id, bytes.subarray(at, at + n));
			at += n;
		}
		await this.session.drained();
	}
}

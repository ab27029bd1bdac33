// SPDX-License-Identifier: GPL-2.0-only
// One WebSocket as a stream of bytes: read so many, write some.
import {Queue} from "./bytes.js";

const QUEUE_MAX = 8 << 20;
const BUFFERED_MAX = 4 << 20;
const BUFFERED_LOOK = 5;	// ms; a WebSocket does not say when it has sent

export class Wire {
	// socket: a WebSocket, or what behaves like one
	constructor(socket) {
		this.socket = socket;
		this.queue = new Queue(QUEUE_MAX);
		this.waiting = null;
		this.error = null;
		this.opened = new Promise((resolve, reject) => {
			socket.onopen = resolve;
			this.failOpen = reject;
		});
		this.opened.catch(() => {});
		socket.binaryType = "arraybuffer";
		socket.onmessage = (e) => this.heard(e.data);
		this.closed = new Promise((resolve) => {
			socket.onclose = (e) => {
				this.fail(new Error(e.reason || "the connection ended"));
				resolve();
			};
		});
		socket.onerror = () => {};
	}

	heard(data) {
		try {
			if (!(data instanceof ArrayBuffer))
				throw new Error("text came where bytes should");
			this.queue.push(new Uint8Array(data));
		} catch (e) {
			this.close(e);
			return;
		}
		this.wake();
	}

	wake() {
		const w = this.waiting;

		if (!w || (this.queue.length < w.n && !this.error))
			return;
		this.waiting = null;
		if (this.queue.length >= w.n)
			w.resolve(this.queue.take(w.n));
		else
			w.reject(this.error);
	}

	fail(error) {
		this.error ??= error;
		this.failOpen(this.error);
		this.wake();
	}

	// By one reader at a time.
	read(n) {
		return new Promise((resolve, reject) => {
			this.waiting = {n, resolve, reject};
			this.wake();
		});
	}

	write(bytes) {
		if (!this.error)
			this.socket.send(bytes);
	}

	// Until what was written has gone, but for a rest.
	async drained() {
		while (!this.error && this.socket.bufferedAmount > BUFFERED_MAX)
			await new Promise((resolve) => setTimeout(resolve, BUFFERED_LOOK));
	}

	close(error = new Error("closed")) {
		this.fail(error);
		this.socket.close();
	}
}

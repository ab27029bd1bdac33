// SPDX-License-Identifier: GPL-2.0-only
// The share's end of one port: hello, epochs, offers, streams, pings. At most one medium
// is offered, and another one while it takes the first one's place.
import * as frame from "./frame.js";
import {equal, random, u32s} from "./bytes.js";
import {Stream} from "./stream.js";

const INTERVAL = 2000, TIMEOUT = 10000;		// ms, of our pings
const RESYNC_WAIT = 2000, RESYNC_EVERY = 1000, RESYNC_SLOW = 10000, RESYNC_FAST = 10;
const REST = 65536;	// what may be missing of a frame whose end was lost
const FAULTS_MAX = 5;

const instance = random(16);	// of this tab

export class Session {
	// hooks: onstate(), onnotice(what, medium, text), secret(bytes), onsilent()
	constructor(port, hooks) {
		this.port = port;
		this.hooks = hooks;
		this.media = [];
		this.receiver = new frame.Receiver();
		this.sender = new frame.Sender();
		this.streams = new Map();
		this.ending = new Set();	// streams of older epochs, until they have ended
		this.faults = 0;
		this.up = this.shut = this.lost = false;
		this.peer = null;
		port.onopen = (again) => this.opened(again);
		port.onclose = () => this.reset();
		port.ondata = (bytes) => this.receiver.feed(bytes,
			(h, p) => this.heard(h, p), () => this.stepLost());
	}

	// ---- sending

	send(type, stream, payload = new Uint8Array(0)) {
		if (this.up)
			this.port.send(this.sender.frame(type, stream, payload));
	}

	drained() {
		return this.port.drained();
	}

	room() {
		return this.sender.room(this.peer.frameMax);
	}

	// ---- beginning and end

	reset() {
		clearTimeout(this.helloTimer);
		clearInterval(this.pingTimer);
		for (const s of this.streams.values())
			this.endStream(s);
		this.streams.clear();
		const was = this.up;

		this.up = false;
		if (was)
			this.hooks.onstate();
	}

	endStream(s) {
		s.abort();
		this.ending.add(s);
		s.done.then(() => this.ending.delete(s));
	}

	opened(again) {
		this.reset();
		this.receiver.reset();
		this.lost = false;
		this.tries = 0;
		this.expectHello(again);
	}

	expectHello(now) {
		clearTimeout(this.helloTimer);
		if (now)
			this.askForHello();
		const wait = !this.tries ? RESYNC_WAIT : this.tries > RESYNC_FAST ? RESYNC_SLOW :
			RESYNC_EVERY;

		this.helloTimer = setTimeout(() => this.expectHello(true), wait);
	}

	// A link that waits for the end of a frame would take it for that.
	askForHello() {
		if (this.shut)
			return;
		if (this.sender.checked || this.tries > 1)
			this.port.send(new Uint8Array(REST));
		this.port.send(new frame.Sender().frame(frame.RESYNC, 0, new Uint8Array(0)));
		if (++this.tries === 4)
			this.hooks.onsilent();
	}

	stepLost() {
		this.reset();
		this.lost = true;
		this.tries = 0;
		this.expectHello(true);
	}

	// The link broke the protocol. Too often, and the port is left alone.
	fault(text) {
		this.bye(frame.ERR_PROTOCOL, text);
		if (++this.faults < FAULTS_MAX) {
			this.tries = 0;
			this.expectHello(false);
		} else {
			this.shut = true;
		}
	}

	bye(code, text) {
		this.send(frame.BYE, 0, frame.packCode(code, text));
		this.reset();
	}

	// ---- hello

	async hello(h, payload) {
		const hello = frame.parseHello(payload);

		if (this.shut || !hello || !frame.isLink(hello))
			return;
		// What a drive's users wrote may look like a hello; they do not know the secret.
		if (this.lost && this.peer && !equal(hello.secret, this.peer.secret)) {
			this.receiver.forged(this.peer.epoch);
			return;
		}
		this.reset();
		this.lost = false;
		this.lastStream = 0;
		this.peer = hello;
		const checked = (hello.capabilities & frame.CAP_CHECKS) !== 0;

		if (checked)
			this.receiver.check(hello.secret);
		this.sender = new frame.Sender(hello.epoch, checked, hello.secret);
		// The fence: nothing of an older epoch may be on its way any more.
		await Promise.all([...this.ending].map((s) => s.done));
		if (this.peer !== hello || this.up || !this.port.opened)
			return;
		this.goUp(hello);
	}

	goUp(hello) {
		// The password is spent by our hello; from then on the secret opens.
		this.hooks.secret(hello.secret);
		this.up = true;
		this.heardAt = Date.now();
		this.send(frame.HELLO, 0, frame.packHello(hello.epoch, instance, INTERVAL, TIMEOUT));
		if (!frame.speaks(hello)) {
			this.bye(frame.ERR_VERSION, "only version 1 is spoken here");
			this.shut = true;
			return;
		}
		for (const m of this.media)
			this.offer(m);
		this.send(frame.OFFERS_END, 0);
		this.pingTimer = setInterval(() => this.ping(), INTERVAL);
		this.hooks.onstate();
	}

	ping() {
		if (Date.now() - this.heardAt < TIMEOUT) {
			this.send(frame.PING, 0, u32s(Date.now() % 4294967296, 0));
			return;
		}
		this.reset();
		this.tries = 0;
		this.expectHello(true);
	}

	// ---- media

	offer(m) {
		this.send(frame.OFFER, 0, frame.packOffer({
			id: m.id, size: m.size, name: m.name, kind: m.kind, mediumId: m.mediumId,
			incarnation: m.incarnation,
			flags: frame.READ_ONLY | frame.DURABLE | frame.MULTI,
		}));
	}

	add(m) {
		this.media.push(m);
		this.offer(m);
	}

	withdraw(m) {
		const at = this.media.indexOf(m);

		if (at < 0)
			return;
		this.media.splice(at, 1);
		this.send(frame.WITHDRAW, 0, u32s(m.id));
		for (const s of this.streams.values())
			if (s.medium === m)
				s.close(frame.ERR_NO_SUCH_OFFER, "not offered any more");
	}

	eject(m, force) {
		this.send(frame.EJECT_REQUEST, 0, u32s(m.id, force ? frame.EJECT_FORCE : 0));
	}

	mayInsert() {
		return this.up && (this.peer.capabilities & frame.CAP_INSERT) !== 0;
	}

	insert(m) {
		this.send(frame.EJECT_REQUEST, 0, u32s(m.id, frame.EJECT_INSERT));
	}

	// Returns whether the link can do that.
	replace(m, by) {
		if (!(this.peer?.capabilities & frame.CAP_ANSWERS))
			return false;
		this.send(frame.EJECT_REQUEST, 0, u32s(m.id, frame.EJECT_REPLACE, by.id));
		return true;
	}

	// ---- what is heard

	heard(h, payload) {
		this.heardAt = Date.now();
		if (h.type === frame.HELLO) {
			this.hello(h, payload);
			return;
		}
		if (!this.up || h.type & frame.OPTIONAL)
			return;
		const s = h.stream ? this.streams.get(h.stream) : null;
		const ok = s ? this.ofStream(s, h, payload) :
			h.stream ? h.type === frame.OPEN && this.open(h.stream, payload) :
				this.ofSession(h, payload);

		if (!ok && this.up)
			this.fault(`a frame of type ${h.type} that is not allowed`);
	}

	open(id, payload) {
		const v = frame.parseU32s(payload, 2);

		if (!v || v[1] > frame.CREDIT_MAX || id <= this.lastStream ||
		    this.streams.size >= 2 * frame.STREAMS_MAX)
			return false;
		const m = this.media.find((x) => x.id === v[0]);

		this.lastStream = id;
		if (m && this.streams.size < frame.STREAMS_MAX) {
			this.streams.set(id, new Stream(this, id, m, v[1]));
			return true;
		}
		// It is dead when the link's CLOSE has come.
		const stub = {closed: () => this.streams.delete(id), abort() {},
			done: Promise.resolve(), data: () => false, credit: () => true};

		this.streams.set(id, stub);
		this.send(frame.CLOSE, id, m ? frame.packCode(frame.ERR_LIMIT, "too many streams") :
			frame.packCode(frame.ERR_NO_SUCH_OFFER, "not offered"));
		return true;
	}

	streamOver(s) {
		if (this.streams.get(s.id) !== s)
			return;
		this.streams.delete(s.id);
		this.endStream(s);
	}

	ofStream(s, h, payload) {
		const v = frame.parseU32s(payload, 1);

		switch (h.type) {
		case frame.DATA:
			return s.data(payload);
		case frame.CREDIT:
			return v !== null && s.credit(v[0]);
		case frame.CLOSE:
			return frame.parseText(payload, 1) !== null && s.closed();
		}
		return false;
	}

	ofSession(h, payload) {
		const token = payload.length === 8;
		const notice = h.type === frame.NOTICE ? frame.parseText(payload, 2) : null;

		switch (h.type) {
		case frame.PING:
			this.send(frame.PONG, 0, payload);
			return token;
		case frame.PONG:
			return token;
		case frame.NOTICE:
			if (notice)
				this.notice(...notice);
			return notice !== null;
		case frame.BYE:
			this.reset();
			return frame.parseText(payload, 1) !== null;
		}
		return false;
	}

	notice(what, id, text) {
		const m = this.media.find((x) => x.id === id);

		if (m)
			this.hooks.onnotice(what, m, text);
	}
}

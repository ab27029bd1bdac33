// SPDX-License-Identifier: GPL-2.0-only
// What the tab shares and with whom: one connection, made again when it is lost, a
// session for each drive, one medium that is offered to the drive that was chosen.
import {hex} from "./bytes.js";
import {Connection} from "./connection.js";
import * as frame from "./frame.js";
import {Medium} from "./media.js";
import {Session} from "./session.js";
import {LinkError} from "./spice.js";

const RETRY_FIRST = 500, RETRY_MAX = 15000;	// ms
const SETTLE_WAIT = 5000;
const EJECT_WAIT = 15000, CHANGE_WAIT = 30000, INSERT_WAIT = 30000;
const TICKET_BYTES = 16;	// of the secret, as hexadecimal digits

export class Share {
	// connect(): a socket to the link. hooks: changed(), tell(text, isError)
	constructor(connect, hooks) {
		this.connect = connect;
		this.hooks = hooks;
		this.sessions = new Map();	// by drive
		this.medium = null;
		this.coming = null;		// is to take its place
		this.wished = false;	// it is to be put in as soon as that can be asked for
		this.inserted = this.locked = false;
		this.user = "";		// who has it locked, as the drive's end says it
		this.drive = null;
		this.chosen = false;	// by the person, or by a drive that has it
		this.state = "off";		// connecting, on, lost
		this.secret = this.password = null;
		this.asked = null;
		this.stops = 0;			// what began before the last one is void
	}

	// ---- the connection

	passwords() {
		return this.secret ? [this.secret, this.password] : [this.password];
	}

	set(state) {
		this.state = state;
		this.hooks.changed();
	}

	start(password) {
		this.password = password;
		this.delay = RETRY_FIRST;
		this.spoken = false;
		this.open();
	}

	open() {
		const era = ++this.stops;
		const connection = new Connection(this.connect, () => this.passwords(), {
			onport: (port) => this.began(port),
			onlost: (port) => this.ended(port),
			onend: (error) => era === this.stops && this.failed(error),
		});

		this.connection = connection;
		clearTimeout(this.settling);
		this.settling = null;
		this.settled = false;
		this.set("connecting");
		// A listener has one client at a time.
		Promise.resolve(this.left).then(() => connection.start())
			.catch((e) => connection.end(e));
	}

	failed(error) {
		for (const s of this.sessions.values())
			s.reset();
		this.sessions.clear();
		this.answer(false, "the connection ended before there was an answer");
		const refused = error instanceof LinkError && error.password;

		if (refused || !this.spoken) {
			this.secret = refused ? null : this.secret;
			this.set("off");
			this.hooks.tell(`Not connected: ${error.message}.`, true);
			return;
		}
		this.set("lost");
		this.hooks.tell(`The connection is lost: ${error.message}. Trying again.`, true);
		this.retry = setTimeout(() => this.open(), this.delay);
		this.delay = Math.min(2 * this.delay, RETRY_MAX);
	}

	// In good order: the drive gives the medium up, and does not wait for it.
	stop(why) {
		this.stops++;
		clearTimeout(this.retry);
		clearTimeout(this.settling);
		for (const s of this.sessions.values()) {
			for (const m of [...s.media])
				s.withdraw(m);
			s.bye(frame.ERR_SHUTDOWN, why);
			s.shut = true;
		}
		this.sessions.clear();
		this.left = this.connection?.leave(new Error(why));
		this.inserted = this.locked = false;
		this.medium = this.coming = null;
		this.wished = false;
		this.set("off");
	}

	began(port) {
		const session = new Session(port, {
			onstate: () => this.stateOf(session),
			onnotice: (what, m, text) => this.notice(what, m, text),
			onsilent: () => this.hooks.tell("The drive's end does not answer; is spicebd running there?",
				true),
			secret: (bytes) => (this.secret = hex(bytes.subarray(0, TICKET_BYTES))),
		});

		this.sessions.set(port.drive, session);
		if (this.medium && port.drive === this.drive)
			session.media = [this.medium];
		// The first one, whichever is there first, until the person has a say.
		if (this.drive === null || (!this.chosen && port.drive < this.drive))
			this.move(port.drive);
		this.hooks.changed();
	}

	ended(port) {
		this.sessions.get(port.drive)?.reset();
		this.sessions.delete(port.drive);
		this.hooks.changed();
	}

	stateOf(session) {
		if (session.up && this.state !== "on") {
			this.spoken = true;
			this.delay = RETRY_FIRST;
			this.set("on");
			this.hooks.tell("Connected.", false);
		}
		if (session.up)
			this.settle();
		this.hooks.changed();
	}

	// Which drive is meant, unless the person has said so, is known when all of them are
	// there; one that does not come is not waited for for ever.
	settle() {
		const all = !this.connection.unknown && [...this.sessions.values()].every((s) => s.up);

		if (all) {
			clearTimeout(this.settling);
			this.settled = true;
		} else if (!this.settled) {
			this.settling ??= setTimeout(() => {
				this.settled = true;
				this.fulfil();
			}, SETTLE_WAIT);
		}
		this.fulfil();
	}

	session() {
		return this.sessions.get(this.drive);
	}

	isUp(drive = this.drive) {
		return this.sessions.get(drive)?.up ?? false;
	}

	// ---- media

	choose(drive) {
		// What was asked for of this one is answered first.
		if (!this.inserted && !this.asked) {
			this.chosen = true;
			this.move(drive);
		}
		this.hooks.changed();
	}

	move(drive) {
		const m = this.medium;

		if (drive === this.drive)
			return;
		if (m)
			this.session()?.withdraw(m);
		this.drive = drive;
		if (m)
			this.session()?.add(m);
		this.fulfil();
	}

	async share(file) {
		const m = await Medium.open(file);

		if (this.medium && this.inserted) {
			this.change(m);
			return;
		}
		if (this.asked)
			throw new Error("the drive has not answered yet; try again");
		if (this.medium)
			this.session()?.withdraw(this.medium);
		this.medium = m;
		this.session()?.add(m);
		this.wished = true;
		this.fulfil();
		this.hooks.changed();
	}

	// Whether the drive's end lets us put a medium in.
	mayInsert() {
		return this.medium !== null && !this.inserted && !this.asked &&
			(this.session()?.mayInsert() ?? false);
	}

	// Once for each time that the person wished it: what was ejected stays out.
	fulfil() {
		if (this.wished && (this.chosen || this.settled) && this.mayInsert())
			this.insert();
	}

	insert() {
		if (!this.mayInsert())
			return;
		this.wished = false;
		this.session().insert(this.medium);
		this.ask(INSERT_WAIT, "It was not inserted");
	}

	change(m) {
		const session = this.session();

		if (this.asked || !session?.up)
			throw new Error("the drive does not answer now; try again later");
		session.add(m);
		this.coming = m;
		if (session.replace(this.medium, m)) {
			this.ask(CHANGE_WAIT, "The medium was not changed");
			return;
		}
		this.dropComing();
		throw new Error("the drive cannot change media: eject this one first");
	}

	dropComing() {
		if (this.coming)
			this.session()?.withdraw(this.coming);
		this.coming = null;
	}

	eject() {
		if (this.asked || !this.inserted || !this.isUp())
			return;
		this.session().eject(this.medium, false);
		this.ask(EJECT_WAIT, "It was not ejected");
	}

	// Whatever the drive's users do.
	takeAway() {
		if (this.medium)
			this.session()?.withdraw(this.medium);
		this.dropComing();
		this.medium = null;
		this.inserted = this.locked = this.wished = false;
		this.answer(true, "");
		this.hooks.changed();
	}

	ask(limit, failure) {
		const timer = setTimeout(() => this.answer(false, "the drive does not answer"), limit);

		this.asked = {timer, failure};
		this.hooks.changed();
	}

	answer(good, why) {
		const a = this.asked;

		if (!a)
			return;
		clearTimeout(a.timer);
		this.asked = null;
		if (!good) {
			this.dropComing();
			this.hooks.tell(`${a.failure}: ${why}.`, true);
		}
		this.hooks.changed();
	}

	// ---- what the drive says

	notice(what, m, text) {
		if (what === frame.BUSY && m === this.medium)
			this.answer(false, text || "it is in use there");
		else if (what === frame.INSERTED)
			this.wasInserted(m);
		else if (what === frame.EJECTED && m === this.medium)
			this.wasEjected(m, text);
		else if (what === frame.LOCKED || what === frame.UNLOCKED) {
			this.locked = what === frame.LOCKED;
			this.user = this.locked ? text : "";
		}
		this.hooks.changed();
	}

	wasInserted(m) {
		const again = this.inserted && m === this.medium;

		if (m === this.coming) {
			const old = this.medium;

			this.medium = m;
			this.coming = null;
			this.session()?.withdraw(old);
			this.answer(true, "");
		}
		this.inserted = this.chosen = true;
		this.wished = false;
		this.answer(true, "");
		if (!again)
			this.hooks.tell(`Drive ${this.drive} has ${m.name}.`, false);
	}

	// Another one that comes in its place is heard of next.
	wasEjected(m, text) {
		this.inserted = this.locked = false;
		if (this.coming)
			return;
		this.answer(true, "");
		this.hooks.tell(`Drive ${this.drive} gave ${m.name} back${text ? `: ${text}` : ""}.`,
			false);
	}
}

// SPDX-License-Identifier: GPL-2.0-only
// A Spice ticket: the password, encrypted with the key that the server shows.

const PASSWORD_MAX = 60;

export async function encrypt(publicKey, password) {
	const text = new TextEncoder().encode(password + "\0");

	if (text.length > PASSWORD_MAX + 1)
		throw new Error(`a password has at most ${PASSWORD_MAX} characters`);
	const key = await crypto.subtle.importKey("spki", publicKey,
		{name: "RSA-OAEP", hash: "SHA-1"}, false, ["encrypt"]);
	return new Uint8Array(await crypto.subtle.encrypt({name: "RSA-OAEP"}, key, text));
}

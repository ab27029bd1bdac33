// SPDX-License-Identifier: GPL-2.0-only
/* spicebdctl: the verbs. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"
#include "log.h"

#define COMMON_HELP \
"  --json        the answer as JSON, one line\n" \
"  --help        this text\n"

#define ASK_HELP \
"  --force       at once; what its users have not written is lost\n" \
"  --timeout S   how long its users may take to let go (2; 10 for what was\n" \
"                mounted by itself)\n"

#define DRIVE_HELP \
"DRIVE is spicebd0, 0 or /dev/spicebd0.\n"

#define FAR_HELP \
"  --read-ahead SIZE|auto|off   of the kernel; auto: as the path is measured\n" \
"  --cache SIZE|auto|off        what is fetched ahead of a read-only medium's\n" \
"                               readers; auto: when the far end is far away\n"

const struct verb verbs[] = {
	{ "insert", verb_insert,
"usage: spicebdctl insert [DRIVE] SOURCE [options]\n"
"\n"
"Puts a medium into a drive and prints the device node when it can be read.\n"
"Without DRIVE: the first empty one that fits, or a new one.\n"
"\n"
"SOURCE is one of\n"
"  spice:[LINK/][NAME]  what a Spice client shares (spicebdctl media)\n"
"  nbd://HOST[:PORT]/EXPORT, nbds://..., nbd+unix:///EXPORT?socket=PATH\n"
"  a path               a file, a block device, or a folder\n"
"\n"
"  --read-only   do not write to it\n"
"  --read-write  fail if it cannot be written\n"
"  --cdrom       into a CD drive     (default for ISO 9660, UDF and folders)\n"
"  --disk        into a stick's slot (default for all else)\n"
"  --force       put out a medium that is in the drive, used or not; of a drive\n"
"                that its old users still have open, make a new one\n"
"  --on-tray     lay it onto the open tray, which stays open\n"
"  --resend      a writable nbd server that is lost and back gets the writes again\n"
"                that it had not answered, though an old one may land after a\n"
"                newer one; without this they fail, and the medium with them\n"
"  --timeout S   give up after S seconds (30)\n"
FAR_HELP COMMON_HELP DRIVE_HELP },
	{ "change", verb_change,
"usage: spicebdctl change [DRIVE] SOURCE [options]\n"
"\n"
"Puts another medium in the place of the one that is in a drive; if anything is\n"
"wrong with it the old one stays. Without DRIVE: the one drive that has a medium.\n"
"SOURCE is as for insert.\n"
"\n"
"  --retain      writable if the old one was (default)\n"
"  --read-only   do not write to it\n"
"  --read-write  fail if it cannot be written\n"
"  --force       whoever uses the old one\n"
"  --timeout S   give up after S seconds (30)\n"
FAR_HELP COMMON_HELP DRIVE_HELP },
	{ "eject", verb_tray,
"usage: spicebdctl eject [DRIVE] [--force]\n"
"\n"
"Takes the medium out of a drive and leaves the tray open. If it is in use its\n"
"users are asked to let go of it, and are named. Without DRIVE: the one drive\n"
"that has a medium.\n"
"\n"
ASK_HELP
COMMON_HELP DRIVE_HELP },
	{ "open", verb_tray,
"usage: spicebdctl open [DRIVE] [--force]\n"
"\n"
"Opens the tray of a CD drive; its medium lies in it. If it is in use its users\n"
"are asked to let go of it, and are named. Without DRIVE: the one drive with a\n"
"closed tray. A drive without a tray stays as it is.\n"
"\n"
ASK_HELP
COMMON_HELP DRIVE_HELP },
	{ "close", verb_tray,
"usage: spicebdctl close [DRIVE]\n"
"\n"
"Closes the tray of a CD drive. Without DRIVE: the one whose tray is open.\n"
"\n"
COMMON_HELP DRIVE_HELP },
	{ "remove", verb_tray,
"usage: spicebdctl remove [DRIVE] [--force]\n"
"\n"
"Takes the medium from the open tray, which stays open, or out of a slot. Without\n"
"DRIVE: the one drive that has a medium.\n"
"\n"
ASK_HELP
COMMON_HELP DRIVE_HELP },
	{ "lock", verb_tray,
"usage: spicebdctl lock DRIVE\n"
"\n"
"Keeps the medium in and the tray closed, whoever asks, until unlock. What is\n"
"done with --force is done all the same.\n"
"\n"
COMMON_HELP DRIVE_HELP },
	{ "unlock", verb_tray,
"usage: spicebdctl unlock DRIVE [--force]\n"
"\n"
"Opens what lock locked.\n"
"\n"
"  --force       also the lock of the drive's user, a mounted CD's for example\n"
COMMON_HELP DRIVE_HELP },
	{ "list", verb_list,
"usage: spicebdctl list\n"
"\n"
"Shows all drives, one a line. Needs no daemon and no rights.\n"
"\n"
COMMON_HELP },
	{ "status", verb_status,
"usage: spicebdctl status [DRIVE]\n"
"\n"
"Shows all there is to say about a drive, or about all. With --json an object\n"
"for one drive, a list for all. Needs no daemon and no rights.\n"
"\n"
COMMON_HELP DRIVE_HELP },
	{ "add", verb_add,
"usage: spicebdctl add cdrom|disk [options]\n"
"\n"
"Makes one more drive, empty, and prints its device node.\n"
"\n"
"  --index N              its number (default: the first that is free)\n"
"  --queues N             hardware queues, 1 to 16\n"
"  --depth N              requests of each queue, 1 to 256\n"
"  --max-io N             largest request, bytes, a power of two\n"
"  --reconnect-timeout S  how long requests wait for a lost far end; 0 not at\n"
"                         all, -1 for ever\n"
"  --stall-timeout S      how long a silent helper is waited for; 0 for ever\n"
"  --hold                 it is frozen from its first moment: a medium can be\n"
"                         inserted, and is readable when release says so\n"
"  --open-wait S          whoever opens it meanwhile waits for that, S seconds at\n"
"                         most (0: the open fails, as with an empty drive)\n"
COMMON_HELP },
	{ "freeze", verb_freeze,
"usage: spicebdctl freeze [DRIVE...] [options]\n"
"\n"
"Lets no request pass, and says so when all that was written is on the far end's\n"
"store. What comes meanwhile waits. Without DRIVE: all drives. Several that keep a\n"
"drive frozen do so under names of their own; it is thawed when the last of them\n"
"has thawed it.\n"
"\n"
"  --holder NAME  who keeps it frozen (admin)\n"
"  --fs           freeze the file systems mounted from it first; they are thawed\n"
"                 when the drive is, whoever thaws it\n"
"  --timeout S    it is thawed by itself after S seconds (60); 0: never\n"
COMMON_HELP DRIVE_HELP },
	{ "thaw", verb_thaw,
"usage: spicebdctl thaw [DRIVE...] [--holder NAME]\n"
"\n"
"Undoes freeze, of this holder. Without DRIVE: all drives that it has frozen.\n"
"Needs no daemon.\n"
"\n"
"  --holder NAME  who kept it frozen (admin)\n"
COMMON_HELP DRIVE_HELP },
	{ "release", verb_thaw,
"usage: spicebdctl release DRIVE\n"
"\n"
"Lets go of a drive that was made with add --hold.\n"
"\n"
COMMON_HELP DRIVE_HELP },
	{ "snapshot", verb_snapshot,
"usage: spicebdctl snapshot create DRIVE [options]\n"
"       spicebdctl snapshot list [DRIVE]\n"
"       spicebdctl snapshot delete NAME [--force]\n"
"\n"
"A snapshot is the medium as it was when create returned, read over NBD while the\n"
"drive goes on being written: for a backup. create prints where.\n"
"\n"
"  --name NAME    what it is called (default: s0, s1, ...)\n"
"  --scratch PATH where the old bytes of what is overwritten are kept: a folder, or a\n"
"                 file that is not there yet (default: /var/tmp)\n"
"  --socket PATH  where it is served (default: in spicebdd's run directory)\n"
"  --fs           freeze the file systems mounted from the drive while it is made, so\n"
"                 that they are clean in it\n"
"  --force        delete it though it is being read\n"
COMMON_HELP DRIVE_HELP },
	{ "migrate", verb_migrate,
"usage: spicebdctl migrate DRIVE --to URI [options]\n"
"       spicebdctl migrate DRIVE --cancel\n"
"       spicebdctl migrate DRIVE --resolve run-here|give-up\n"
"\n"
"Has a drive of another host go on with the medium, which a share or an NBD server\n"
"has. The drive there is an empty one that was made with add --hold, or a new one.\n"
"Until the medium has moved, whatever fails leaves everything as it was.\n"
"\n"
"  --to URI          ssh://[USER@]HOST[:PORT], tls://HOST:PORT where spicebd-tls\n"
"                    listens, or unix:PATH of the other spicebdd's migrate.sock\n"
"  --tls-certificates DIR\n"
"                    for tls://: ca-cert.pem, client-cert.pem, client-key.pem\n"
"                    (default: /etc/spicebd/migrate-tls)\n"
"  --to-drive NAME   this drive there\n"
"  --link NAME       that link there, for the share\n"
"  --share-uri URI   where the share finds it (default: as the link listens)\n"
"  --share-subject S what the subject of its certificate must be\n"
"  --cancel          leaves it here, if it has not moved yet; also at the target\n"
"  --resolve HOW     when the connection was lost while it moved, and nobody else can\n"
"                    tell: run-here or give-up. Look at the other host first: a\n"
"                    medium that both use breaks.\n"
"  --serve           (by ssh) speak to this host's spicebdd on standard input\n"
COMMON_HELP DRIVE_HELP },
	{ "del", verb_del,
"usage: spicebdctl del DRIVE [--force]\n"
"\n"
"Removes a drive.\n"
"\n"
"  --force       also while it is open: its users get errors\n"
COMMON_HELP DRIVE_HELP },
	{ "monitor", verb_monitor,
"usage: spicebdctl monitor [--count N] [--timeout S]\n"
"\n"
"Shows events as they come, until it is interrupted. Needs no daemon and no\n"
"rights. A line \"monitoring\" comes first; it is not counted.\n"
"\n"
"  --count N     end after N events\n"
"  --timeout S   end after S seconds; with --count and fewer events: status 4\n"
"  --json        one object a line\n"
"  --help        this text\n" },
	{ "top", verb_top,
"usage: spicebdctl top [--interval S] [--count N]\n"
"\n"
"Shows what each drive does, anew every second: bytes and requests, how long a\n"
"request takes, how many are under way on average, held requests and errors. On\n"
"a terminal until q is pressed. Asks the kernel alone, and needs no rights.\n"
"\n"
"  --interval S  every S seconds\n"
"  --count N     end after N times; without keys and screen\n"
"  --json        one object a line, for each drive each time\n"
"  --help        this text\n" },
	{ "metrics", verb_metrics,
"usage: spicebdctl metrics\n"
"\n"
"Prints counters and states of all drives for Prometheus, as its node exporter\n"
"takes them from a file (*.prom). Asks the kernel alone, and needs no rights.\n"
"\n"
"  --help        this text\n" },
	{ "qemu", verb_qemu,
"usage: spicebdctl qemu DRIVE --qmp SOCKET [--device ID]\n"
"\n"
"Lets the guest of a QEMU that has a CD drive of ours by host_cdrom know of each\n"
"medium, which QEMU itself does not tell it, and of each wish to have it back.\n"
"Runs until that QEMU ends. Documentation/under-qemu.rst says more.\n"
"\n"
"  --qmp SOCKET  of a QMP monitor of that QEMU\n"
"  --device ID   its device (default: the one that uses DRIVE)\n"
"  --help        this text\n" DRIVE_HELP },
	{ "listen", verb_listen,
"usage: spicebdctl listen [[NAME] ADDRESS] [options]\n"
"\n"
"Starts a Spice server without a display, to which a person's spicebd-share\n"
"connects. It lasts until unlisten or the next boot; for longer, put a file into\n"
"/etc/spicebd/links.d. NAME is \"default\" if not given.\n"
"\n"
"ADDRESS is HOST:PORT, [IPV6]:PORT, or unix:/PATH; without one it is a socket that\n"
"root alone can connect to, /run/spicebd/spice.sock. In a virtual machine it may be\n"
"port: instead, which means its virtio-serial ports org.spice-space.spicebd.N;\n"
"NAME is then \"port\" if not given. udev does the same when such a port appears.\n"
"\n"
"  --password-file F  its first line is the password; required for HOST:PORT; good\n"
"                     for one client, who may come again, until unlisten\n"
"  --tls-cert F       PEM certificate, its key, and the authority that signed it;\n"
"  --tls-key F        all three are required beyond loopback\n"
"  --tls-ca F\n"
"  --insecure         beyond loopback without TLS: everything in the clear\n"
"  --client-insert    who shares may put media into empty drives, as a page does\n"
"\n"
"For a guest of this machine, whose QEMU has the ports as -chardev socket:\n"
"  --relay HOW        connect:/PATH or listen:/PATH: to whom QEMU listens, or who\n"
"                     listens for it, at /PATH.N for port N\n"
"  --relay-ports L    which ports, as 0-1,5 (default 0-1)\n"
"  --relay-user U     with listen:, the user who may connect, besides root\n"
COMMON_HELP },
	{ "unlisten", verb_unlisten,
"usage: spicebdctl unlisten [NAME]\n"
"\n"
"Ends what listen started. NAME is \"default\" if not given.\n"
"\n"
COMMON_HELP },
	{ "media", verb_media,
"usage: spicebdctl media [--names]\n"
"\n"
"Shows what connected Spice clients share.\n"
"\n"
"  --names       for programs: as insert takes them, one a line; starts nothing\n"
COMMON_HELP },
	{ "start", verb_start,
"usage: spicebdctl start\n"
"\n"
"Starts spicebdd, by systemd where its units are installed, else under\n"
"spicebd-supervisor. insert, listen and media do so by themselves.\n"
"\n"
COMMON_HELP },
	{ "stop", verb_stop,
"usage: spicebdctl stop\n"
"\n"
"Ends spicebdd, the links and the servers of local media.\n"
"\n"
COMMON_HELP },
	{ NULL, NULL, NULL },
};

static void usage(FILE *to)
{
	fputs("usage: spicebdctl VERB [arguments]\n\nverbs:", to);
	for (const struct verb *v = verbs; v->name; v++)
		fprintf(to, " %s", v->name);
	fputs("\n\nspicebdctl VERB --help tells about each. Exit status: 0 done, 1 refused or\n"
	      "failed, 2 usage, 3 no daemon and none could be started, 4 timeout.\n", to);
}

static void standard_fds(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= 2);
	if (fd > 2)
		close(fd);
}

int main(int argc, char **argv)
{
	standard_fds();
	signal(SIGPIPE, SIG_IGN);
	log_init("spicebdctl", false);
	if (argc >= 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "help"))) {
		usage(stdout);
		return EXIT_DONE;
	}
	if (argc >= 2 && !strcmp(argv[1], "--version")) {
		printf("spicebdctl %s\n", SPICEBD_VERSION);
		return EXIT_DONE;
	}
	if (argc < 2) {
		usage(stderr);
		return EXIT_USAGE;
	}
	for (const struct verb *v = verbs; v->name; v++)
		if (!strcmp(argv[1], v->name)) {
			int status;

			argv[1] = argv[0];	/* getopt names the program by it */
			status = v->run(v, argc - 1, argv + 1);
			if (fflush(stdout) || ferror(stdout))
				return status ? status : EXIT_REFUSED;
			return status;
		}
	log_err("unknown verb \"%s\"; spicebdctl --help lists them", clean(argv[1]));
	return EXIT_USAGE;
}

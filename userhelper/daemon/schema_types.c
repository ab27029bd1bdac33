// SPDX-License-Identifier: GPL-2.0-only
/* The definitions. Those of QEMU's have QEMU's names. */
#include "schema.h"

#define ENUM(name, values)		{ name, SCHEMA_ENUM, values, NULL, NULL }
#define OBJECT(name, members)		{ name, SCHEMA_OBJECT, members, NULL, NULL }
#define ALTERNATE(name, types)		{ name, SCHEMA_ALTERNATE, types, NULL, NULL }
#define UNION(name, members, tag, variants) { name, SCHEMA_OBJECT, members, tag, variants }

const struct schema_def schema_defs[] = {
	/* versions, commands */
	OBJECT("VersionTriple", "major:i minor:i micro:i"),
	OBJECT("VersionInfo", "qemu:VersionTriple package:s"),
	OBJECT("CommandInfo", "name:s"),
	OBJECT("EventInfo", "name:s"),
	OBJECT("NameInfo", "name:s?"),
	ENUM("RunState", "running shutdown"),
	OBJECT("StatusInfo", "running:b status:RunState"),
	ENUM("SchemaMetaType", "builtin enum array object alternate command event"),
	UNION("SchemaInfo", "name:s meta-type:SchemaMetaType", "meta-type",
	       "builtin:SchemaInfoBuiltin enum:SchemaInfoEnum array:SchemaInfoArray "
	       "object:SchemaInfoObject alternate:SchemaInfoAlternate command:SchemaInfoCommand "
	       "event:SchemaInfoEvent"),
	OBJECT("SchemaInfoBuiltin", "json-type:s"),
	OBJECT("SchemaInfoEnumMember", "name:s"),
	OBJECT("SchemaInfoEnum", "members:[SchemaInfoEnumMember] values:[s]"),
	OBJECT("SchemaInfoArray", "element-type:s"),
	OBJECT("SchemaInfoObjectMember", "name:s type:s default:*?"),
	OBJECT("SchemaInfoObjectVariant", "case:s type:s"),
	OBJECT("SchemaInfoObject",
	       "members:[SchemaInfoObjectMember] tag:s? variants:[SchemaInfoObjectVariant]?"),
	OBJECT("SchemaInfoAlternateMember", "type:s"),
	OBJECT("SchemaInfoAlternate", "members:[SchemaInfoAlternateMember]"),
	OBJECT("SchemaInfoCommand", "arg-type:s ret-type:s allow-oob:b"),
	OBJECT("SchemaInfoEvent", "arg-type:s"),

	/* sources with a name */
	ENUM("BlockdevDriver", "file host_cdrom host_device nbd raw spice"),
	ENUM("BlockdevDiscardOptions", "ignore unmap"),
	ENUM("SocketAddressType", "inet unix"),
	OBJECT("InetSocketAddress", "host:s port:s"),
	OBJECT("UnixSocketAddress", "path:s"),
	UNION("SocketAddress", "type:SocketAddressType", "type",
	       "inet:InetSocketAddress unix:UnixSocketAddress"),
	OBJECT("BlockdevOptionsFile", "filename:s"),
	OBJECT("BlockdevOptionsNbd", "server:SocketAddress export:s?"),
	OBJECT("BlockdevOptionsRaw", "file:BlockdevRef"),
	OBJECT("BlockdevOptionsSpice", "link:s? medium:s?"),
	ALTERNATE("BlockdevRef", "BlockdevOptions s"),
	UNION("BlockdevOptions",
	       "driver:BlockdevDriver node-name:s? read-only:b? auto-read-only:b? "
	       "discard:BlockdevDiscardOptions?", "driver",
	       "file:BlockdevOptionsFile host_cdrom:BlockdevOptionsFile "
	       "host_device:BlockdevOptionsFile nbd:BlockdevOptionsNbd raw:BlockdevOptionsRaw "
	       "spice:BlockdevOptionsSpice"),
	ENUM("BlockdevChangeReadOnlyMode", "retain read-only read-write"),
	OBJECT("AddfdInfo", "fdset-id:i fd:i"),

	/* query-block, query-named-block-nodes */
	ENUM("BlockDeviceIoStatus", "ok failed nospace"),
	ENUM("BlockdevDetectZeroesOptions", "off on unmap"),
	OBJECT("BlockdevCacheInfo", "writeback:b direct:b no-flush:b"),
	OBJECT("ImageInfo", "filename:s format:s virtual-size:i"),
	OBJECT("BlockDeviceInfo",
	       "file:s node-name:s? ro:b drv:s backing_file_depth:i active:b encrypted:b "
	       "detect_zeroes:BlockdevDetectZeroesOptions bps:i bps_rd:i bps_wr:i iops:i iops_rd:i "
	       "iops_wr:i image:ImageInfo cache:BlockdevCacheInfo write_threshold:i"),
	OBJECT("BlockInfo",
	       "device:s qdev:s? type:s removable:b locked:b inserted:BlockDeviceInfo? tray_open:b? "
	       "io-status:BlockDeviceIoStatus?"),

	/* exports */
	ENUM("BlockExportType", "nbd"),
	ENUM("BlockExportRemoveMode", "safe hard"),
	OBJECT("BlockExportInfo", "id:s type:BlockExportType node-name:s shutting-down:b"),
	OBJECT("ListenInet", "host:s port:s ipv4:b? ipv6:b? numeric:b? keep-alive:b?"),
	OBJECT("ListenUnix", "path:s abstract:b? tight:b?"),
	OBJECT("InetSocketAddressWrapper", "data:ListenInet"),
	OBJECT("UnixSocketAddressWrapper", "data:ListenUnix"),
	UNION("SocketAddressLegacy", "type:SocketAddressType", "type",
	      "inet:InetSocketAddressWrapper unix:UnixSocketAddressWrapper"),

	/* jobs */
	ENUM("MirrorSyncMode", "top full incremental none bitmap"),
	ENUM("BlockdevOnError", "report ignore enospc stop auto"),
	ENUM("JobType", "backup"),
	ENUM("JobStatus", "running"),
	OBJECT("BlockJobInfo",
	       "type:JobType device:s len:i offset:i busy:b paused:b speed:i "
	       "io-status:BlockDeviceIoStatus ready:b status:JobStatus auto-finalize:b "
	       "auto-dismiss:b"),
	OBJECT("JobInfo",
	       "id:s type:JobType status:JobStatus current-progress:i total-progress:i"),

	/* our own */
	ENUM("SpicebdPersonality", "cdrom disk"),
	ENUM("SpicebdReadOnlyMode", "auto read-only read-write retain"),
	ENUM("SpicebdTray", "closed open"),
	ENUM("SpicebdFreeze", "thawed draining flushing frozen failed"),
	OBJECT("SpicebdHolder", "name:s? since-ms:i left-ms:i?"),
	OBJECT("SpicebdFrozen", "drive:s left-ms:i?"),
	ENUM("SpicebdState",
	     "empty ready settling held reconnecting frozen error inactive gone"),
	ENUM("SpicebdMediumKind", "cdrom disk unknown"),
	ENUM("SpicebdSourceType", "spice nbd file"),
	OBJECT("SpicebdInserted",
	       "drive:s device:s personality:SpicebdPersonality read-only:b size:i name:s"),
	OBJECT("SpicebdMade", "drive:s device:s"),
	ENUM("SpicebdTransport", "spice local unix tcp tls"),
	OBJECT("SpicebdSource", "type:SpicebdSourceType uri:s transport:SpicebdTransport"),
	OBJECT("SpicebdMediumLink",
	       "up:b connections:i sent-bytes:i received-bytes:i latency-us:i?"),
	OBJECT("SpicebdPath", "round-trip-us:i bytes-per-second:i"),
	OBJECT("SpicebdCache",
	       "limit:i used:i hits:i joined:i misses:i hit-bytes:i prefetched:i wasted:i"),
	OBJECT("SpicebdMedium",
	       "name:s? size:i read-only:b kind:SpicebdMediumKind block-size:i source:SpicebdSource? "
	       "link:SpicebdMediumLink? read-ahead:i? path:SpicebdPath? cache:SpicebdCache?"),
	ALTERNATE("SpicebdMediumOrNull", "null SpicebdMedium"),
	OBJECT("SpicebdStats",
	       "reads:i writes:i flushes:i discards:i write-zeroes:i read-bytes:i write-bytes:i "
	       "errors:i refused:i resent:i medium-changes:i"),
	ENUM("SpicebdSnapshotState", "coming active failed ending"),
	OBJECT("SpicebdSnapshot",
	       "drive:s state:SpicebdSnapshotState size:i copied:i clients:i since-ms:i name:s? "
	       "uri:s? socket:s? scratch:s? reason:s?"),
	ENUM("SpicebdOperation",
	     "insert change eject remove tray delete freeze migrate snapshot resize"),
	OBJECT("SpicebdBlocker", "owner:s? reason:s? blocks:[SpicebdOperation]"),
	ENUM("SpicebdHelper", "none attached lost"),
	OBJECT("SpicebdDrive",
	       "drive:s index:i device:s personality:SpicebdPersonality tray:SpicebdTray locked:b "
	       "locked-by-admin:b stale:b state:SpicebdState reason:s? openers:i users:i "
	       "queues:i depth:i max-io:i "
	       "freeze:SpicebdFreeze freeze-error:s? holders:[SpicebdHolder] "
	       "reconnect-timeout:i stall-timeout:i open-wait:i helper:SpicebdHelper "
	       "helper-pid:i? sockets:i in-flight:i held:i hold-left-ms:i? "
	       "generation:i "
	       "medium:SpicebdMediumOrNull blockers:[SpicebdBlocker] snapshots:[SpicebdSnapshot] "
	       "stats:SpicebdStats"),
	ENUM("SpicebdMigrationDirection", "in out"),
	ENUM("SpicebdMigrationOwner", "run-here give-up"),
	ENUM("SpicebdMigrationStatus",
	     "setup moving freezing accepted released granted completed failed"),
	OBJECT("SpicebdMigration",
	       "drive:s direction:SpicebdMigrationDirection status:SpicebdMigrationStatus peer:s "
	       "far-drive:s? reason:s?"),
	ENUM("SpicebdSnapshotStatus", "created failed deleted"),
	OBJECT("SpicebdOffer", "name:s size:i read-only:b kind:SpicebdMediumKind in-use-by:s?"),
	OBJECT("SpicebdLinkMedia", "link:s client:b media:[SpicebdOffer]"),
	OBJECT("SpicebdEventMedium", "name:s? size:i read-only:b"),
	ALTERNATE("SpicebdEventMediumOrNull", "null SpicebdEventMedium"),
	{ NULL, SCHEMA_ENUM, NULL, NULL, NULL },
};

const struct schema_event schema_events[] = {
	{ "BLOCK_EXPORT_DELETED", "id:s" },
	{ "BLOCK_JOB_CANCELLED", "type:JobType device:s len:i offset:i speed:i" },
	{ "BLOCK_JOB_COMPLETED", "type:JobType device:s len:i offset:i speed:i error:s?" },
	{ "DEVICE_TRAY_MOVED", "device:s id:s tray-open:b" },
	{ "SPICEBD_DRIVE_ADDED", "drive:s" },
	{ "SPICEBD_DRIVE_REMOVED", "drive:s" },
	{ "SPICEBD_EJECT_REQUEST", "drive:s" },
	{ "SPICEBD_FREEZE", "drive:s freeze:SpicebdFreeze holders:[s]?" },
	{ "SPICEBD_FREEZE_EXPIRED", "drive:s holder:s?" },
	{ "SPICEBD_LINK", "drive:s up:b reason:s?" },
	{ "SPICEBD_LOCK_CHANGED", "drive:s locked:b locked-by-admin:b" },
	{ "SPICEBD_MEDIA_CHANGED", "link:s?" },
	{ "SPICEBD_MEDIUM_CHANGED", "drive:s generation:i medium:SpicebdEventMediumOrNull" },
	{ "SPICEBD_MIGRATION",
	  "drive:s direction:SpicebdMigrationDirection status:SpicebdMigrationStatus" },
	{ "SPICEBD_SNAPSHOT", "drive:s status:SpicebdSnapshotStatus name:s? reason:s?" },
	{ "SPICEBD_UNUSED", "drive:s" },
	{ NULL, NULL },
};

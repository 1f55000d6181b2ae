import test from "ava";
import { hasCode } from "../../../src/host/errors.js";
import { cleanPath, type LayerEntry } from "../../../src/image/layer/entry.js";
import { TarScanner } from "../../../src/image/layer/tar-scanner.js";
import { makeTar, type TarItem } from "../../support/tar.js";

const limits = { maxEntries: 1000, maxMetadataBytes: 1 << 20 };

function scan(tar: Buffer, chunk = tar.length): LayerEntry[] {
  const scanner = new TarScanner(limits);
  for (let at = 0; at < tar.length; at += chunk) scanner.push(tar.subarray(at, at + chunk));
  scanner.end();
  return scanner.entries;
}

const shape = (entries: LayerEntry[]) => entries.map(({ kind, path }) => `${kind} ${path}`);

test("the same entries come out however the stream is cut", (t) => {
  const tar = makeTar([
    { name: "./" },
    { name: "a/".repeat(80), pax: [["SCHILY.xattr.user.x", "y\n=z"]] },
    { name: "file", data: "x".repeat(1500), pax: [["mtime", "5.25"]] },
    { name: "link", link: "file" },
  ]);
  const whole = scan(tar);
  t.is(whole.length, 4);
  t.like(whole[2], { kind: "file", path: "file", size: 1500, mtime: 5, mtimeNsec: 250_000_000 });
  t.deepEqual(whole[1]?.xattrs, [["user.x", "y\n=z"]]);
  for (const chunk of [1, 7, 511, 512, 513, 1000]) t.deepEqual(scan(tar, chunk), whole);
  const { offset = 0 } = whole[2] ?? {};
  t.is(tar.toString("latin1", offset, offset + 3), "xxx");
});

test("whiteouts, opaque folders, aufs' own, and overlay's way of saying it", (t) => {
  const entries = scan(
    makeTar([
      { name: "a/.wh.gone", data: "" },
      { name: ".wh.top", data: "" },
      { name: "a/.wh..wh..opq", data: "" },
      { name: "a/.wh..wh.plnk/", type: "5" },
      { name: "dev/x", type: "3", major: 0, minor: 0 },
    ]),
  );
  t.deepEqual(shape(entries), ["whiteout a/gone", "whiteout top", "opaque a", "whiteout dev/x"]);
  for (const name of [".wh.", "a/.wh..", "a/.wh..."]) t.throws(() => scan(makeTar([{ name, data: "" }])));
});

test("attributes that would steer the container's overlay, and those that no file system takes, are left out", (t) => {
  const names = [
    "trusted.overlay.redirect",
    "user.overlay.opaque",
    "system.nfs4_acl",
    "com.apple.x",
    "user.",
    "user.ok",
    "system.posix_acl_access",
  ];
  const [entry] = scan(makeTar([{ name: "f", pax: names.map((name) => [`SCHILY.xattr.${name}`, "v"]) }]));
  t.deepEqual(
    entry?.xattrs.map(([name]) => name),
    ["user.ok", "system.posix_acl_access"],
  );
});

test("a global pax header says nothing about entries; an empty pax value takes the record back", (t) => {
  const global = makeTar([{ name: "pax_global_header", type: "g", data: "21 path=evil/instead\n" }]).subarray(0, 1024);
  t.deepEqual(shape(scan(Buffer.concat([global, makeTar([{ name: "real", data: "" }])]))), ["file real"]);
  t.deepEqual(
    shape(
      scan(
        makeTar([
          {
            name: "real",
            pax: [
              ["path", "other"],
              ["path", ""],
            ],
          },
        ]),
      ),
    ),
    ["file real"],
  );
});

const broken: [what: string, tar: () => Buffer, why: RegExp][] = [
  ["a flipped bit in a header", () => flip(makeTar([{ name: "a" }]), 3), /checksum/],
  ["no tar at all", () => Buffer.alloc(2048, "x"), /checksum|octal/],
  [
    "a tar that ends inside a file",
    () => makeTar([{ name: "a", data: "x".repeat(2000) }]).subarray(0, 1024),
    /ends inside/,
  ],
  ["a tar that ends inside a header", () => makeTar([{ name: "a" }]).subarray(0, 300), /ends inside/],
  ["a pax record longer than its header", () => makeTar([{ name: "p", type: "x", data: "99 path=x\n" }]), /malformed/],
  ["a pax header of a gigabyte", () => makeTar([{ name: "p", type: "x", statedSize: 1 << 30 }]), /extension header/],
  ["a long name of a gigabyte", () => makeTar([{ name: "p", type: "L", statedSize: 1 << 30 }]), /extension header/],
  ["an unknown type", () => makeTar([{ name: "a", type: "Z" }]), /unknown type/],
  [
    "an entry after a block of zeros",
    () => Buffer.concat([Buffer.alloc(512), makeTar([{ name: "a" }])]),
    /after a block of zeros/,
  ],
  ["a name part of 256 bytes", () => makeTar([{ name: "n".repeat(256) }]), /above 255/],
  ["a path of 5000 bytes", () => makeTar([{ name: "a/".repeat(2500) }]), /4095/],
  ["NUL in a name", () => makeTar([{ name: "a", pax: [["path", "a\0b"]] }]), /NUL/],
  ["an empty symlink", () => makeTar([{ name: "a", type: "2" }]), /link target/],
  ["a hard link to the root", () => makeTar([{ name: "a", type: "1", link: "/" }]), /linked to/],
  ["a uid beyond 32 bits", () => makeTar([{ name: "a", uid: 2 ** 32 }]), /uid/],
  ["a negative pax size", () => makeTar([{ name: "a", pax: [["size", "-1"]] }]), /size/],
  ["a size beyond all measure", () => makeTar([{ name: "a", pax: [["size", "9007199254740991"]] }]), /range/],
  ["the root as a file", () => makeTar([{ name: ".", data: "x" }]), /root/],
  ["the root as a symlink", () => makeTar([{ name: "/", link: "x" }]), /root/],
  [
    "an attribute of 70 kB",
    () => makeTar([{ name: "a", pax: [["SCHILY.xattr.user.a", "x".repeat(70_000)]] }]),
    /attribute/,
  ],
  ["sparse pieces past the end", () => sparse("0,10,5,10", 12), /overlap|past/],
  ["sparse pieces without their data", () => sparse("0,4000", 4000), /less data/],
  ["a sparse map of odd length", () => sparse("0,1,2", 10), /odd/],
  ["a device number beyond Linux's", () => makeTar([{ name: "d", type: "4", major: 5000 }]), /device number/],
];

function sparse(map: string, size: number): Buffer {
  const pax: TarItem["pax"] = [
    ["GNU.sparse.map", map],
    ["GNU.sparse.size", String(size)],
  ];
  return makeTar([{ name: "s", data: "0123456789", pax }]);
}

function flip(tar: Buffer, at: number): Buffer {
  tar[at] = (tar[at] ?? 0) ^ 0x10;
  return tar;
}

for (const [what, tar, why] of broken) {
  test(`refuses ${what}`, (t) => {
    const error = t.throws(() => scan(tar()));
    t.true(hasCode(error, "invalid_argument"), error.message);
    t.regex(error.message, why);
  });
}

test("bounds on entries and on names and attributes together", (t) => {
  const many = makeTar(Array.from({ length: 1001 }, (_, i) => ({ name: `f${i}` })));
  t.true(
    hasCode(
      t.throws(() => scan(many)),
      "resource_exhausted",
    ),
  );
  const value = "x".repeat(60_000);
  const heavy = makeTar(
    Array.from({ length: 20 }, (_, i) => ({
      name: `f${i}`,
      pax: [["SCHILY.xattr.user.a", value]] as [string, string][],
    })),
  );
  t.true(
    hasCode(
      t.throws(() => scan(heavy)),
      "resource_exhausted",
    ),
  );
});

test("no input makes it throw anything but its own error, or hang", (t) => {
  let state = 12345;
  const random = (below: number) => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return Math.floor(state / 65536) % below;
  };
  const base = makeTar([
    { name: "d/" },
    {
      name: "d/f",
      data: "x".repeat(700),
      pax: [
        ["SCHILY.xattr.user.a", "b"],
        ["mtime", "1.5"],
      ],
    },
    { name: "h", type: "1", link: "d/f" },
  ]);
  let refused = 0;
  for (let round = 0; round < 3000; round++) {
    const tar = Buffer.from(base);
    for (let i = 0; i <= random(4); i++) tar[random(tar.length)] = random(256);
    try {
      scan(tar, 1 + random(600));
    } catch (err) {
      refused += 1;
      if (!hasCode(err, "invalid_argument")) throw err;
    }
  }
  t.true(refused > 1000);
});

test("clean paths", (t) => {
  t.is(cleanPath("/a//./b/../c/"), "a/c");
  t.is(cleanPath("../../.."), "");
  t.is(cleanPath("./"), "");
  t.is(cleanPath("n".repeat(256)), undefined);
});

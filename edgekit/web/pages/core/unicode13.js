// Unicode 13.0, independent of the browser's version: categories, simple case mappings, stream-safe NFD.
//
// The vocabularies were built with Unicode 13.0, and a browser's `\p{L}` has a newer version. So the general categories
// are stored here. Everything else comes from the browser, but only for code points assigned in 13.0, whose
// decompositions, combining classes and case pairs never change (the Unicode stability policy).
//
// The table is the one in edgekit/tokenizers/tokenmonster/unicode13.py, from the Unicode Character Database 13.0.0
// (Copyright Unicode, Inc., under the Unicode License, https://www.unicode.org/license.txt).

// Class letters: u Lu, l Ll, t other letters (Lt Lm Lo), n numbers (Nd Nl No), m Mn, s other marks (Mc Me),
// o assigned otherwise, - not assigned. `u26` is 26 code points, `z5` is `ul` five times.
const RUNS =
  "o48n10o7u26o6l26o47to7n2olo3nton3ou23ou7l24ol8z27ul2z7ul2z23u2lulul3u2lulu2lu3l2u4lu2lu3l3u2lu2lululu2lul2ulu2lu" +
  "3lulu2l2tul3t4utlutlutlz7ul2z8ul2utlulu3lz28ul7u2lu2l2ulu4lz3ul69tl27t18o4t12o14t5o7toto17m112ulultoul-2tl3ou-4o" +
  "2uou3-u-u2lu17-u9l35ul2u3l3z11ul5uloulu2l2u51l48z17om5s2z27u2lz5ul2z48-u38-2to6l41o2-2o3-m45omom2om2om-8t27-4t4o" +
  "2-11o16m11o2-o2t43m21n10o4t2mt99otm7o2m6t2m2om4t2n10t3o2to14-otmt30m27-2t89m11t-14n10t33m9t2o4t-2mo2t22m4tm9tm3t" +
  "m5-2o15-t25m3-2o-t11-53t21-t18-11m15om32st54msmts3m8s4ms2tm7t10m2o2n10ot16ms2-t8-2t2-2t22-t7-t-3t4-2mts3m4-2s2-2" +
  "s2mt-8s-4t2-t3m2-2n10t2o2n6o2tom-2m2s-t6-4t2-2t22-t7-t2-t2-t2-2m-s3m2-4m2-2m3-3m-7t4-t-7n10m2t3mo-10m2s-t9-t3-t2" +
  "2-t7-t2-t5-2mts3m5-m2s-s2m-2t-15t2m2-2n10o2-7tm6-ms2-t8-2t2-2t22-t7-t2-t5-2mtsmsm4-2s2-2s2m-7m2s-4t2-t3m2-2n10ot" +
  "n6-10mt-t6-3t3-t4-3t2-t-t2-3t2-3t3-3t12-4s2ms2-3s3-s3m-2t-6s-14n13o8-5ms3mt8-t3-t23-t16-3tm3s4-m3-m4-7m2-t3-5t2m" +
  "2-2n10-7on7otms2ot8-t3-t23-t10-t5-2mtsms5-ms2-s2m2-7s2-7t-t2m2-2n10-t2-13m2s2t9-t3-t41m2ts3m4-s3-s3mto-4t3sn7t3m" +
  "2-2n19ot6-ms2-t18-3t24-t9-t-2t7-3m-4s3m3-m-s8-6n10-2s2o-12t48mt2m7-4ot7m8on10o2-37t2-t-t5-t24-t-t10mt2m9t-2t5-t-" +
  "m6-2n10-2t4-32to23m2o6n20omomomo4s2t8-t36-4m14sm5om2t5m11-m36-o8mo6-o13-37t43s2m4sm6sm2s2m2tn10o6t6s2m2t4m3ts3t2" +
  "s7t3m4t13ms2m2s6mtsn10s3mo2u38-u-5u-2l43otl3t329-t4-2t7-t-t4-2t41-t4-2t33-t4-2t7-t-t4-2t15-t57-t4-2t67-2m3o9n20-" +
  "3t16o10-6u86-2l6-2ot620o2t17ot26o2-3t75o3n3t8-7t13-t4m3-11t18m3o2-9t18m2-12t13-t3-m2-12t52m2sm7s8ms2m11o3to4tm-2" +
  "n10-6n10-6o11m3o-n10-6t89-7t5m2t34mt-5t70-10t31-m3s4m2s3-4s2ms6m3-4o-3o2n10t30-2t5-11t44-4t26-6n11-3o34t23m2s2m-" +
  "2o2t53smsm7-msms2m8s6m10-2mn10-6n10-6o7to6-2m14sm2-63m4st47msm5sms5ms2t7-4n10o17m9o9-3m2st30sm4s2m2sm3t2n10t44ms" +
  "m2s3msm3s2-8o4t36s8m8s2m2-3o5n10-3t3n10t36o2l9-7u43-2u3o8-8m3om13sm7t4mt6mt2sm2t-5l44t63l13tl34t37m58-m5z74ul9z4" +
  "8ul9u8l6-2u6-2l8u8l8u8l6-2u6-2l8-u-u-u-ul8u8l14-2l8t8l8t8l8t8l5-l2u4tolo3l3-l2u4to3l4-2l2u4-o3l8u5o3-2l3-l2u4to2" +
  "-o101-o10nt-2n6o5tn10o5-t13-3o32-16m13s4ms3m12-15o2uo4uo2lu3l2u3louo3u5o6uououou4olu4lt4lo2l2u2o5ul4o4lon51uln5o" +
  "2-4o663-25o11-21n60o78n22o630n30o992-2o32-o105u47-l47-ulu3l2z3u4lul2ul6t2u3lz48ul2o6ululm3ul-5o4no2l38-l-5l-2t56" +
  "-7to-14mt23-9t7-t7-t7-t7-t7-t7-t7-t7-m32o47to35-45o26-o89-12o214-26o12-4o5t2no25n9m4s2ot5o2n3t2o3-t86-2m2o2t3ot9" +
  "0ot4-5t43-t94-o2n4o10t32o36-12t16o31-n10o30n8on15o32n10o39n15o320t6592o64t20989-3t1165-3o55-9t46o2t269o3t16n10t2" +
  "-20z23tms3om10otz14t2m2t70n10m2o6-8o23t9o2z6ul3z31tl8ululu2lz4to2ulultulul3z10u5lu5lz5-2ulu4lul-42ult3lt7mt3mt4m" +
  "t23s2m2so4m-3n6o4-6t52o4-8s2t50s16m2-8o2n10-6m18t6o3tot2mn10t28m8o2t23m11s2-11ot29-3m3st47ms2m4s2m2s3o13-tn10-4o" +
  "2t5mt10n10t5-t41m6s2m2s2m2-9t3mt8ms-2n10-2o4t23o3tsmst50mtm3t2m2t5m2tmt-24t3o2t11sm2s2o2t3sm-10t6-2t6-2t6-9t7-t7" +
  "-l43ot4l9to2-4l80t35s2ms2ms2osm-2n10-6t11172-12t23-4t49-4o8448t366-2t106-38l7-12l5-5tmt10ot13-t5-t-t2-t2-t108o16" +
  "-17t363o2-16t64-2t54-40t12o2-2m16o10-6m16o35-o19-o4-4t5-t135-2o-o15n10o7u26o6l26o11t89-3t6-2t6-2t6-2t3-3o7-o7-10" +
  "o5-2t12-t26-t19-t2-t15-2t14-34t123-5o3-4n45-3o9n57o17n2o3-o13-3o-47o45m-130t29-3t49-15mn27-4t32n4-9t20nt8n-5t38m" +
  "5-5t30-ot36-4t8on5-42u40l40t78-2n10-6u36-4l36-4t40-8t52-11o-144t311-9t22-10t8-152t6-2t-t44-t2-3t-2t23-on8t23o2n7" +
  "t31-8n9-48t19-t2-5n5t22n6-3ot26-5o-64t56-4n2t2n16-2n46tm3-m2-5m4t4-t3-t29-2m3-4mn9-7o9-7t29n2ot29n3-32t8ot28m2-4" +
  "n5o7-9t54-3o7t22-2n8t19-5n8t18-7o4-12n7-80t73-55u51-13l51-7n6t36m4-8n10-294n31-t42-m2o-2t2-78t29n10t-8t22m11n4o5" +
  "-86t21n7-20t23-9smst53m15o7-4n30-15m3st45s3m4s2m2o7-11o-2t25-7n10-6m3t36m5sm8-n10o4ts2t-8t35mo2t-9m2st48s3m9s2t4" +
  "o4m4osmn10toto3-n20-11t18-t25s3m3s2msm2o6m-65t7-t-t4-t15-t10o-6t47ms3m8-5n10-6m2s2-t8-2t2-2t22-t7-t2-t5-m2ts2ms4" +
  "-2s2-2s3-2t-6s-5t5s2-2m7-3m5-139t53s3m8s2m3smt4o5n10o2-omt3-30t48s3m6sms4m2sm2t2ot-8n10-166t47s3m4-2s4m2sm2o23t4" +
  "m2-34t48s3m8s2msm2o3t-11n10-6o13-19t43msms2m6smt-7n10-54t27-2m3s2m4sm5-4n12o4-192t44s3m9sm2o-100u32l32n19-12t8-2" +
  "t-2t8-t2-t24s6-s2-2m2smtstsmo3-9n10-70t8-2t39s3m4-2m2s4mtots-27tm10t40m6stm4o8m-8tm6s2m3t46m13sm2o3to5-29t57-263" +
  "t9-t37sm7-m6smto5-10n29-3o2t30-2m22-sm7sm2sm2-73t7-t2-t38m6-3m-m2-m7tm-8n10-6t6-t2-t32s5-m2-s2msmt-7n10-310t19m2" +
  "s2o2-183t-15n21o29-13ot922-102n111-o5-11t196-2748t1071-o9-4039t583-8633t569-7t31-n10-4o2-96t30-2m5o-10t48m7o9t4o" +
  "2-10n10-n7-t21-5t19-688u32l32n23o4-101t75-4mts55-7m4t13-64t2otm-11s2-14t6136-8t1238-42t9-8951t287-49t3-17t4-8t39" +
  "6-2308t107-5t13-3t9-7t10-2om2o5-4956o246-10o39-2o60s2m3o3s6o8m8o2m7o30m4o59-23o66m3o-154n20-12o87-9n25-135u26l26" +
  "u26l7-l18u26l26u-u2-2u-2u2-2u4-u8l4-l-l7-l11u26l26u2-u4-2u8-u7-l26u2-u4-u5-u-3u7-l26u26l26u26l26u26l26u26l26u26l" +
  "26u26l28-2u25ol25ol6u25ol25ol6u25ol25ol6u25ol25ol6u25ol25ol6ul-2n50o512m55o4m50o8mo14mo7-15m5-m15-1360m7-m17-2m7" +
  "-m2-m5-213t45-3m7t7-2n10-4to-368t44m4n10-5o-1280t197-2n9m7-41u34l34m7t-4n10-4o2-785n59on3on4-76n45on15-194t4-t27" +
  "-t2-t-2t-t10-t4-t-t-6t-4t-t-t-t3-t2-t-2t-t-t-t-t-t2-t-2t4-t7-t4-t4-t-t10-t17-5t3-t5-t17-52o2-270o44-4o100-12o15-" +
  "2o15-o15-o37-10n13o161-56o29-13o44-4o9-7o2-14o6-154o984-8o13-3o13-3o116-12o89-7o12-20o12-4o56-8o10-6o40-8o30-2o2" +
  "-78o121-o82-o135-12o14-2o5-3o3-5o7-9o25-7o7-9o3-13o7-41o147-o55-37n10-1030t42718-34t4149-11t222-2t5762-14t7473-3" +
  "103t542-1506t4939-715958o-30o96-128m240-65040o65534-2o65534-2";

// Starters that are second in a canonical composition pair, without Hangul jamo.
const COMPOSING = new Set(
  "\u09be\u09d7\u0b3e\u0b56\u0b57\u0bbe\u0bd7\u0cc2\u0cd5\u0cd6\u0d3e\u0d57\u0dcf\u0ddf\u102e\u1b35" +
    "\u{11127}\u{1133e}\u{11357}\u{114b0}\u{114ba}\u{114bd}\u{115af}\u{11930}",
);

export const UNASSIGNED = "-";

// Runs of a class: the start and the class letter of each. The first two planes also have a flat table.
const FLAT = 0x20000;
let starts;
let classes;
let flat;

function prepare() {
  starts = [];
  classes = [];
  flat = new Uint8Array(FLAT);
  let point = 0;
  const add = (kind, length) => {
    starts.push(point);
    classes.push(kind);
    if (point < FLAT) flat.fill(kind.charCodeAt(0), point, Math.min(FLAT, point + length));
    point += length;
  };
  for (const [, kind, digits] of RUNS.matchAll(/([a-z-])(\d*)/g)) {
    const count = Number(digits || 1);
    if (kind !== "z") add(kind, count);
    else for (let i = 0; i < 2 * count; i++) add("ul"[i % 2], 1);
  }
}

/** The class letter of a character (of its first code point). */
export function classOf(char) {
  if (!flat) prepare();
  const point = char.codePointAt(0);
  if (point < FLAT) return String.fromCharCode(flat[point]);
  let low = 0;
  let high = starts.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (starts[middle] <= point) low = middle;
    else high = middle;
  }
  return classes[low];
}

const isOne = (text) => text.length === String.fromCodePoint(text.codePointAt(0)).length;

/** The one-to-one uppercase mapping: sharp s and ligatures have none, U+1F80 gets its titlecase form. */
export function simpleUpper(char) {
  const upper = char.toUpperCase();
  if (!isOne(upper)) return titleOf(char);
  return classOf(char) === UNASSIGNED || classOf(upper) === UNASSIGNED ? char : upper;
}

// JavaScript has no titlecase. The only characters with a titlecase form of one character, but none in uppercase, are
// the Greek ones with an iota subscript.
function titleOf(char) {
  const point = char.codePointAt(0);
  if (point >= 0x1f80 && point <= 0x1faf) return String.fromCodePoint(point | 8);
  if (point === 0x1fb3 || point === 0x1fc3 || point === 0x1ff3) return String.fromCodePoint(point + 9);
  return char;
}

/** The one-to-one lowercase mapping; U+0130 (capital I with a dot) becomes a plain i. */
export function simpleLower(char) {
  const lower = char === "\u0130" ? "i" : char.toLowerCase();
  if (!isOne(lower) || classOf(char) === UNASSIGNED || classOf(lower) === UNASSIGNED) return char;
  return lower;
}

// JavaScript does not expose combining classes, but its NFD sorts marks by them. U+0334 has the lowest class, 1, and
// U+0345 the highest, 240, so a character of any class but 0 changes places with one of the two.
function hasCombiningClass(char) {
  const swaps = (a, b) => (a + b).normalize("NFD") === b + a;
  return swaps(char, "\u0334") || swaps("\u0345", char);
}

function isNonstarter(char) {
  const point = char.codePointAt(0);
  if ((point >= 0x1161 && point <= 0x1175) || (point >= 0x11a8 && point <= 0x11c2)) return true;
  return COMPOSING.has(char) || ("ms".includes(classOf(char)) && hasCombiningClass(char));
}

const known = new Map();

/** How many non-starters begin and end a character's full compatibility decomposition, as [lead, trail]. */
export function nonstarters(char) {
  let counts = known.get(char);
  if (!counts) {
    const flags = classOf(char) === UNASSIGNED ? [] : Array.from(char.normalize("NFKD"), isNonstarter);
    const all = !flags.includes(false);
    counts = all ? [flags.length, flags.length] : [flags.indexOf(false), flags.reverse().indexOf(false)];
    if (known.size >= 1 << 14) known.clear();
    known.set(char, counts);
  }
  return counts;
}

const MAX_NONSTARTERS = 30;
const CGJ = "\u034f";

/**
 * Canonical decomposition by Unicode 13.0, with the stream-safe rule (UAX 15) of Go's x/text/unicode/norm: no more than
 * 30 non-starters in a row; a combining grapheme joiner is inserted before the 31st. Code points not assigned in
 * 13.0 and lone surrogates pass unchanged and separate the text around them.
 */
export function nfd(text) {
  // ASCII never decomposes, combines or reorders, so each run of other characters is independent.
  return text.replace(/[^\0-\x7f]+/g, nfdIsland);
}

function nfdIsland(text) {
  if (text.length > MAX_NONSTARTERS / 3) text = streamSafe(text);
  let out = "";
  let start = 0;
  let at = 0;
  for (const char of text) {
    if (classOf(char) === UNASSIGNED) {
      out += text.slice(start, at).normalize("NFD") + char;
      start = at + char.length;
    }
    at += char.length;
  }
  return out + text.slice(start).normalize("NFD");
}

function streamSafe(text) {
  let out = "";
  let counter = 0;
  for (const char of text) {
    const [lead, trail] = nonstarters(char);
    if (counter + lead > MAX_NONSTARTERS) {
      out += CGJ;
      counter = trail;
    } else counter = lead ? counter + lead : trail;
    out += char;
  }
  return out;
}

// Uniform numbers for drawing tokens: a function of seed, step and token id, the same in every language.
//
// splitmix64 (Steele, Lea, Flood 2014) over seed, then step, then id, as specified in edgekit/inference/sampling.py:
// (mix(s + GAMMA (id + 1)) >> 11 + 1/2) / 2^53, with s = mix(mix(seed) + GAMMA (step + 1)), all modulo 2^64. A 64-bit
// number is computed as two halves of 32 bits: with BigInt a draw over a whole vocabulary takes many times as long.

// The current number, lower half first. A typed array, so that no step allocates.
const word = new Uint32Array(2);

/** Uniform numbers in (0, 1), one for each id; Float64Array. `seed`: a number or a BigInt, taken modulo 2^64. */
export function uniform(seed, step, ids) {
  const seed64 = BigInt.asUintN(64, BigInt(seed));
  word[0] = Number(seed64 & 0xffffffffn);
  word[1] = Number(seed64 >> 32n);
  mix();
  gammaTimes(step + 1, word[0], word[1]);
  mix();
  const [startLow, startHigh] = word;
  const out = new Float64Array(ids.length);
  for (let i = 0; i < ids.length; i++) {
    gammaTimes(ids[i] + 1, startLow, startHigh);
    mix();
    out[i] = (word[1] * 2 ** 21 + (word[0] >>> 11) + 0.5) * 2 ** -53;
  }
  return out;
}

/** splitmix64's finalizer, in place. */
function mix() {
  xorShift(30);
  multiply(0xbf58476d, 0x1ce4e5b9);
  xorShift(27);
  multiply(0x94d049bb, 0x133111eb);
  xorShift(31);
}

/** GAMMA n + start, for n below 2^32. */
function gammaTimes(n, startLow, startHigh) {
  word[0] = n;
  word[1] = 0;
  multiply(0x9e3779b9, 0x7f4a7c15);
  const sum = word[0] + startLow;
  word[0] = sum;
  word[1] += startHigh + (sum > 0xffffffff ? 1 : 0);
}

function xorShift(bits) {
  const low = word[0];
  const high = word[1];
  word[0] = low ^ ((low >>> bits) | (high << (32 - bits)));
  word[1] = high ^ (high >>> bits);
}

function multiply(high, low) {
  const first = word[0];
  word[1] = upperHalf(first, low) + Math.imul(word[1], low) + Math.imul(first, high);
  word[0] = Math.imul(first, low);
}

/** The upper 32 bits of the product of two 32-bit numbers, in halves of 16 bits: no sum here exceeds 2^32. */
function upperHalf(a, b) {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const other = aLow * bHigh + (middle & 0xffff);
  return aHigh * bHigh + (middle >>> 16) + (other >>> 16);
}

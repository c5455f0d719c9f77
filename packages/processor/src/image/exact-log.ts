/**
 * The natural logarithm, correctly rounded. The slicing grid is the first one whose logarithmic distance is smallest,
 * and distances of mirrored grids (2x3 against 3x2) differ in the last bit only, so the last bit decides. `Math.log`
 * may be off by one there (7 % of ratios in V8); the C library of the reference practically never is.
 */

const FRACTION_BITS = 160n;
const ONE = 1n << FRACTION_BITS;

/** 2 atanh((n - d) / (n + d)) = ln(n / d) in fixed point, for n/d within a factor of two of 1. */
function logOfQuotient(n: bigint, d: bigint): bigint {
  const z = ((n - d) << FRACTION_BITS) / (n + d);
  const square = (z * z) >> FRACTION_BITS;
  let power = z;
  let sum = 0n;
  for (let k = 1n; power !== 0n && power !== -1n; k += 2n) {
    sum += power / k;
    power = (power * square) >> FRACTION_BITS;
  }
  return 2n * sum;
}

const LN2 = logOfQuotient(2n, 1n);
const cache = new Map<number, number>();

/** Splits a positive finite float64 into an integer mantissa and a power of two. */
function decompose(x: number): [mantissa: bigint, exponent: number] {
  let exponent = 0;
  let mantissa = x;
  while (!Number.isInteger(mantissa)) {
    mantissa *= 2;
    exponent -= 1;
  }
  return [BigInt(mantissa), exponent];
}

/** The logarithm of `x` (positive, finite), rounded to the nearest float64. */
export function exactLog(x: number): number {
  const known = cache.get(x);
  if (known !== undefined) return known;
  const [mantissa, exponent] = decompose(x);
  const bits = mantissa.toString(2).length - 1; // mantissa = 2^bits * m with 1 <= m < 2
  const log = logOfQuotient(mantissa, 1n << BigInt(bits)) + BigInt(bits + exponent) * LN2;
  const rounded = Number(log) / Number(ONE); // ONE is a power of two: only the conversion to float64 rounds
  if (cache.size < 10_000) cache.set(x, rounded);
  return rounded;
}

/** Numbers as text: durations, sizes, rates, learning rates. */
import type { Finite } from './events.js';

/** Seconds as `0:07`, `12:34`, `3:02:01` or `2d 03:04`; `?` if unknown. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return '?';
  const total = Math.round(seconds);
  const [days, hours, minutes, rest] = [
    Math.floor(total / 86_400),
    Math.floor(total / 3600) % 24,
    Math.floor(total / 60) % 60,
    total % 60,
  ];
  const two = (n: number) => String(n).padStart(2, '0');
  if (days > 0) return `${days}d ${two(hours)}:${two(minutes)}`;
  return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** Bytes as `512 B`, `1.2 MB`, `15.9 GB` (powers of 1000). */
export function formatBytes(bytes: number): string {
  return bytes < 1000 ? `${Math.round(bytes)} B` : `${scaled(bytes, 'G')}B`;
}

/** A count or rate as `7`, `0.42`, `1.2 k`, `8.1 B` (billion): three digits at most. */
export function formatCount(count: number): string {
  if (!Number.isFinite(count)) return '?';
  return count < 1000 ? String(Number(count.toPrecision(3))) : scaled(count, 'B');
}

/** A loss, norm or metric with four significant digits; what was not finite says so. */
export function formatNumber(value: Finite): string {
  if (value === null || !Number.isFinite(value)) return 'not finite';
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) return value.toExponential(2);
  return value.toFixed(value < 10 ? 4 : value < 1000 ? 2 : 0);
}

/** A learning rate as `0`, `5.00e-5`. */
export function formatRate(rate: number): string {
  return rate === 0 ? '0' : rate.toExponential(2);
}

function scaled(value: number, billion: 'G' | 'B'): string {
  const units = ['', 'k', 'M', billion, 'T', 'P'];
  let power = 0;
  let rest = value;
  while (rest >= 999.5 && power < units.length - 1) {
    rest /= 1000;
    power++;
  }
  return `${rest < 10 ? rest.toFixed(1) : Math.round(rest)} ${units[power]}`;
}

/** "1 record", "2 records". */
export function counted(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

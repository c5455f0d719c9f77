/** Numbers, sizes and times in the form of a language. */
import type { Language } from './table.js';

/** A number of a chart or table: null is a value that was not finite, undefined one that is not known. */
export type Shown = number | null | undefined;

const LOCALES = { en: 'en-US', zh: 'zh-CN' } as const;
const UNITS = { en: { day: 'd', of: ' ' }, zh: { day: '天', of: ' ' } } as const;
const two = (value: number): string => String(value).padStart(2, '0');

/** What formats values in one language; `unknown` and `notFinite` stand for what is no number. */
export class Format {
  readonly language: Language;
  readonly #locale: string;
  readonly #unknown: string;
  readonly #notFinite: string;
  readonly #whole: Intl.NumberFormat;
  readonly #compact: Intl.NumberFormat;

  constructor(language: Language, unknown: string, notFinite: string) {
    this.language = language;
    this.#locale = LOCALES[language];
    this.#unknown = unknown;
    this.#notFinite = notFinite;
    this.#whole = new Intl.NumberFormat(this.#locale, { maximumFractionDigits: 0 });
    this.#compact = new Intl.NumberFormat(this.#locale, { notation: 'compact', maximumSignificantDigits: 3 });
  }

  /** A whole number with its groups of digits: 12,345. */
  whole(value: Shown): string {
    return this.#given(value, (number) => this.#whole.format(number));
  }

  /** A count or rate with three digits: 8.12K. */
  count(value: Shown): string {
    return this.#given(value, (number) =>
      Math.abs(number) < 1000
        ? number.toLocaleString(this.#locale, { maximumSignificantDigits: 3 })
        : this.#compact.format(number),
    );
  }

  /** A loss, norm or metric with four digits; very small and large ones with an exponent. */
  value(value: Shown): string {
    return this.#given(value, (number) => {
      const size = Math.abs(number);
      if (number !== 0 && (size < 1e-3 || size >= 1e6)) return number.toExponential(2);
      const digits = size < 10 ? 4 : size < 1000 ? 2 : 0;
      return number.toLocaleString(this.#locale, { minimumFractionDigits: digits, maximumFractionDigits: digits });
    });
  }

  /** A value on an axis: as few digits as tell it from its neighbours. */
  tick(value: number): string {
    if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(1);
    return Math.abs(value) < 10_000
      ? value.toLocaleString(this.#locale, { maximumSignificantDigits: 4 })
      : this.#compact.format(value);
  }

  /** A learning rate: 5.00e-5. */
  rate(value: Shown): string {
    return this.#given(value, (number) => (number === 0 ? '0' : number.toExponential(2)));
  }

  /** A share of 0 to 1 in percent. */
  percent(value: Shown, digits = 0): string {
    return this.#given(value, (number) =>
      number.toLocaleString(this.#locale, { style: 'percent', maximumFractionDigits: digits }),
    );
  }

  /** Bytes in powers of 1000: 15.9 GB. */
  bytes(value: Shown): string {
    return this.#given(value, (number) => {
      const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
      let power = 0;
      let rest = Math.abs(number);
      while (rest >= 999.5 && power < units.length - 1) {
        rest /= 1000;
        power++;
      }
      const digits = power === 0 || rest >= 99.95 ? 0 : rest >= 9.995 ? 1 : 2;
      const text = (Math.sign(number) * rest).toLocaleString(this.#locale, { maximumFractionDigits: digits });
      return `${text} ${units[power]}`;
    });
  }

  /** Seconds as 0:07, 12:34, 3:02:01 or 2d 03:04. */
  duration(value: Shown): string {
    return this.#given(value, (number) => {
      const total = Math.max(0, Math.round(number));
      const [days, hours, minutes] = [
        Math.floor(total / 86_400),
        Math.floor(total / 3600) % 24,
        Math.floor(total / 60) % 60,
      ];
      if (days > 0) return `${days}${UNITS[this.language].day} ${two(hours)}:${two(minutes)}`;
      return hours > 0 ? `${hours}:${two(minutes)}:${two(total % 60)}` : `${minutes}:${two(total % 60)}`;
    });
  }

  /** A short measured time: 0.39 s. */
  seconds(value: Shown): string {
    return this.#given(value, (number) =>
      number >= 100
        ? this.duration(number)
        : `${number.toLocaleString(this.#locale, { maximumSignificantDigits: 3 })} s`,
    );
  }

  /** A date and time, of today without the date. */
  time(value: string | number | undefined, now = Date.now()): string {
    if (value === undefined) return this.#unknown;
    const date = new Date(value);
    if (Number.isNaN(date.getTime())) return this.#unknown;
    const today = date.toDateString() === new Date(now).toDateString();
    const clock = { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' } as const;
    const day = { month: 'short', day: 'numeric' } as const;
    return date.toLocaleString(this.#locale, today ? clock : { ...day, ...clock });
  }

  #given(value: Shown, write: (number: number) => string): string {
    if (value === undefined) return this.#unknown;
    return value === null || !Number.isFinite(value) ? this.#notFinite : write(value);
  }
}

/** Language and theme, kept in the browser. */
import { chooseLanguage, type Language } from '../messages/table.js';

export type Theme = 'system' | 'light' | 'dark';

const read = (key: string): string | null => {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // storage may be switched off
  }
};

const write = (key: string, value: string): void => {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Then the choice lasts as long as the page.
  }
};

class Settings {
  #language: Language = $state('en');
  #theme: Theme = $state('system');
  #dark = $state(false);

  constructor() {
    const language = read('language');
    this.#language = language === 'en' || language === 'zh' ? language : chooseLanguage(navigator.languages);
    const theme = read('theme');
    this.#theme = theme === 'light' || theme === 'dark' ? theme : 'system';
    const system = matchMedia('(prefers-color-scheme: dark)');
    system.addEventListener('change', () => this.#apply(system.matches));
    this.#apply(system.matches);
  }

  get language(): Language {
    return this.#language;
  }

  set language(language: Language) {
    this.#language = language;
    write('language', language);
    this.#apply(matchMedia('(prefers-color-scheme: dark)').matches);
  }

  get theme(): Theme {
    return this.#theme;
  }

  set theme(theme: Theme) {
    this.#theme = theme;
    write('theme', theme);
    this.#apply(matchMedia('(prefers-color-scheme: dark)').matches);
  }

  /** Whether dark colours are shown. */
  get dark(): boolean {
    return this.#dark;
  }

  #apply(systemIsDark: boolean): void {
    this.#dark = this.#theme === 'dark' || (this.#theme === 'system' && systemIsDark);
    document.documentElement.lang = this.#language === 'zh' ? 'zh-CN' : 'en';
    document.documentElement.dataset.theme = this.#dark ? 'dark' : 'light';
  }
}

export const settings = new Settings();

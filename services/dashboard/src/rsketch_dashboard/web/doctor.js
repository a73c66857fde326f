// @ts-check
import { emptyState, render } from './lib.js';

export const title = 'Doctor';

/** @param {HTMLElement} root @returns {import('./lib.js').View} */
export default function doctor(root) {
  return { update: () => { render(emptyState('Doctor', 'This view is not built yet.'), root); } };
}

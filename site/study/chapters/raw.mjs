/** A text as it is written, with TeX's backslashes; \` is a backtick. */
export const raw = (parts, ...values) => String.raw(parts, ...values).replaceAll('\\`', '`')

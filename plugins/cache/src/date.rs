//! Dates as HTTP writes them (RFC 9110 §5.6.7).
//!
//! All three forms are read, in any case, and nothing else: what is no date is a date in the past
//! for whoever asks (RFC 9111 §5.3).

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

const DAYS: [&str; 7] =
    ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// Seconds since 1970; none for what is no date. `now` decides the century of a year of two digits.
pub(crate) fn parse(text: &[u8], now: u64) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let (day, rest) = text.split_at(text.find([',', ' '])?);
    let day = day.to_ascii_lowercase();
    let known = DAYS.iter().position(|known| *known == day || known[..3] == day)?;
    match rest.strip_prefix(", ") {
        // IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`.
        Some(rest) if day.len() == 3 => {
            let mut parts = rest.split(' ');
            let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
            let (time, zone) = (parts.next()?, parts.next()?);
            if day.len() != 2 || year.len() != 4 || !is_gmt(zone) || parts.next().is_some() {
                return None;
            }
            seconds(number(year)?, month_of(month)?, number(day)?, time)
        }
        // RFC 850: `Sunday, 06-Nov-94 08:49:37 GMT`.
        Some(rest) if DAYS[known] == day => {
            let mut parts = rest.split(' ');
            let (date, time, zone) = (parts.next()?, parts.next()?, parts.next()?);
            let mut date = date.split('-');
            let (day, month, year) = (date.next()?, date.next()?, date.next()?);
            let good = day.len() == 2 && year.len() == 2 && date.next().is_none();
            if !good || !is_gmt(zone) || parts.next().is_some() {
                return None;
            }
            // What seems to be more than 50 years ahead is in the past.
            let this = year_of(now);
            let mut year = this / 100 * 100 + number(year)?;
            if year > this + 50 {
                year -= 100;
            }
            seconds(year, month_of(month)?, number(day)?, time)
        }
        Some(_) => None,
        // asctime: `Sun Nov  6 08:49:37 1994`.
        None if day.len() == 3 => {
            let mut parts = rest.split_ascii_whitespace();
            let (month, day, time) = (parts.next()?, parts.next()?, parts.next()?);
            let year = parts.next()?;
            if year.len() != 4 || parts.next().is_some() {
                return None;
            }
            seconds(number(year)?, month_of(month)?, number(day)?, time)
        }
        None => None,
    }
}

fn is_gmt(zone: &str) -> bool {
    zone.eq_ignore_ascii_case("GMT")
}

fn number(digits: &str) -> Option<u64> {
    let good = !digits.is_empty() && digits.len() <= 4;
    (good && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn month_of(name: &str) -> Option<u64> {
    let name = name.to_ascii_lowercase();
    (1..).zip(MONTHS).find(|(_, known)| *known == name).map(|(month, _)| month)
}

fn seconds(year: u64, month: u64, day: u64, time: &str) -> Option<u64> {
    let mut parts = time.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next()?);
    if [hour, minute, second].iter().any(|part| part.len() != 2) || parts.next().is_some() {
        return None;
    }
    let (hour, minute, second) = (number(hour)?, number(minute)?, number(second)?);
    // A leap second counts as the one after it.
    let in_time = hour < 24 && minute < 60 && second <= 60;
    if year < 1970 || !(1..=days_in(year, month)).contains(&day) || !in_time {
        return None;
    }
    Some(((days_before(year, month) + day - 1) * 24 + hour) * 3600 + minute * 60 + second)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970 to the first of a month.
fn days_before(year: u64, month: u64) -> u64 {
    let last = year - 1;
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leaps(last) - leaps(1969);
    years + (1..month).map(|month| days_in(year, month)).sum::<u64>()
}

fn year_of(now: u64) -> u64 {
    let days = now / 86_400;
    let mut year = 1970 + days / 366;
    while days_before(year + 1, 1) <= days {
        year += 1;
    }
    year
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn read(text: &str) -> Option<u64> {
        parse(text.as_bytes(), NOW)
    }

    #[test]
    fn all_three_forms_are_read() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "SUN, 06 nov 1994 08:49:37 gmt",
        ] {
            assert_eq!(read(text), Some(784_111_777), "{text}");
        }
        assert_eq!(read("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(read("Tue, 29 Feb 2000 23:59:60 GMT"), Some(951_868_800));
        assert_eq!(read("Thursday, 18-Aug-50 02:01:18 GMT"), read("Thu, 18 Aug 2050 02:01:18 GMT"));
        assert_eq!(read("Friday, 01-Jan-99 00:00:00 GMT"), read("Fri, 01 Jan 1999 00:00:00 GMT"));
        assert_eq!(read("Fri, 31 Dec 9999 23:59:59 GMT"), Some(253_402_300_799));
    }

    #[test]
    fn nothing_else_is_a_date() {
        for text in [
            "",
            "0",
            "-1",
            "foo",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 31 Feb 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 24:01:18 GMT",
            "Xyz, 18 Aug 2050 02:01:18 GMT",
            "Thu, 18 Aug 1950 02:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 GMT x",
            "Thu, ",
            ",",
            " ",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}

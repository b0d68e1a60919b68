//! SPF, DKIM, DMARC and ARC (in the making).

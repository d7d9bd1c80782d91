package mlaas

// The tenant of a record is in its key alone, so that the two can never
// disagree; the store fills it in when it reads one.

func (j *Job) SetTenant(t Tenant)        { j.Tenant = t }
func (v *Version) SetTenant(t Tenant)    { v.Tenant = t }
func (r *Run) SetTenant(t Tenant)        { r.Tenant = t }
func (r *RunState) SetTenant(t Tenant)   { r.Tenant = t }
func (l *Launch) SetTenant(t Tenant)     { l.Tenant = t }
func (c *Checkpoint) SetTenant(t Tenant) { c.Tenant = t }
func (e *Evaluated) SetTenant(t Tenant)  { e.Tenant = t }
func (d *Dataset) SetTenant(t Tenant)    { d.Tenant = t }
func (l *Locked) SetTenant(t Tenant)     { l.Tenant = t }
func (d *Delivery) SetTenant(t Tenant)   { d.Tenant = t }
